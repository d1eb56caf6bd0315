"""JSON lines about a run, which grow while it goes on and are cut back when it goes back to a checkpoint."""

import json
from pathlib import Path
from typing import Any


class Lines:
    """A file that lines are added to. A disk that takes no line fails nothing: `error` says so."""

    def __init__(self, path: Path, *, after_step: int) -> None:
        """Open `path`, without the lines of later steps than `after_step`, which will be done again."""
        self.kept = [line for line in read(path) if line["step"] <= after_step]
        self.error: OSError | None = None
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text("".join(map(_text, self.kept)), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line, whose `step` says where it belongs."""
        try:
            self._file.write(_text(line))
            self._file.flush()
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines so far. A line that a killed worker left half written is not one."""
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.split("\n")[:-1] if line.endswith("}")]


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
