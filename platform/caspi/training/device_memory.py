"""How much memory a training worker has and uses: of its GPU, or of its process where it computes on CPUs."""

import ctypes
import gc
from pathlib import Path

import torch

from caspi.training.footprint import GIB

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # see proc(5), clear_refs


def limit_bytes(device: torch.device, memory_gib: float | None) -> int:
    """What a worker may use: as its recipe says, or all of a GPU that others leave to it."""
    if memory_gib is not None:
        return int(memory_gib * GIB)
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device)


def peak_bytes(device: torch.device) -> int:
    """The most that this worker has used at once, so far or since `restart_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = (_PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])


def restart_peak(device: torch.device) -> None:
    """Give back what is not used, and let the peak begin with what is left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # glibc's; what was freed would count as used
    (_PROCESS / "clear_refs").write_text(_RESET_PEAK)


def name(device: torch.device) -> str:
    """What kind of device it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
