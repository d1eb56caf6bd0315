"""What ran: the code, the packages, the interpreter, the command and the machine."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from caspi.tracking.node import hardware

_MAX_TAG_CHARS = 5000  # MLflow's servers take at least these


def provenance() -> dict[str, str]:
    """Tags that say what this process is: `code_version`, Python, the command, and the machine by `hardware`."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    python = {"caspi.python": platform.python_version(), "caspi.command": command[:_MAX_TAG_CHARS]}
    return {**code_version(), **python, **hardware()}


def code_version() -> dict[str, str]:
    """Tags that say which Caspi ran: its version, and the commit when it runs from its repository."""
    tags = {"caspi.version": metadata.version("caspi")}
    here = Path(__file__).parent
    # An installed Caspi may lie inside somebody else's repository, whose commit says nothing of it: ask for our file.
    if _git(here, "ls-files", Path(__file__).name):
        tags["mlflow.source.git.commit"] = _git(here, "rev-parse", "HEAD")
        tags["caspi.uncommitted_changes"] = str(bool(_git(here, "status", "--porcelain"))).lower()
    return tags


def packages() -> str:
    """Every installed distribution with its version, a line each."""
    found = {(each.metadata["Name"] or "").lower(): each.version for each in metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


def _git(folder: Path, *arguments: str) -> str:
    """What git says, or nothing where it or a repository is missing."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
