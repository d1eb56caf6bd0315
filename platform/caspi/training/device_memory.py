"""How much memory a training worker has and uses: of its GPU, or of its process where it computes on CPUs."""

import ctypes
import gc
import resource
from pathlib import Path

import torch

from caspi.training.footprint import GIB

_CLEAR = Path("/proc/self/clear_refs")  # see proc(5)
_PEAK = "5"


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def restart_peak(device: torch.device) -> None:
    """Give back what is not used, and let the peak begin with what is left. On CPUs it takes Linux and glibc."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)  # what was freed would count as used
    _CLEAR.write_text(_PEAK)


def name(device: torch.device) -> str:
    """What kind of device it is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
