"""The machine a run is on: what it is, and what its CPU, memory, disk, network and GPUs are doing.

MLflow's monitors are used one by one, for their names. Its `SystemMetricsMonitor` would send from every node to the
tracking server, and stop for good when that is away; here the numbers go the way of all points, by the run's writer.
psutil and NVML's bindings, which the monitors need, come inside Ray's wheel.
"""

import contextlib
import importlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from caspi.tracking.client import quiet_import

logger = logging.getLogger(__name__)


class NodeMonitor:
    """The sensors of this machine. Use one a node and not one a worker, always from the same thread.

    Args:
        node_id: `node_0`, `node_1`, ...: MLflow's "System metrics" page groups and colours keys by these names.
    """

    def __init__(self, node_id: str) -> None:
        self._prefix = f"system/{node_id}/"
        self._sensors: list[Any] = []
        for make in _monitors():
            with contextlib.suppress(Exception):  # no such device here, or a container that hides it
                self._sensors.append(make())
        self.collect()  # utilization is since the reading before

    def collect(self) -> dict[str, float]:
        """What the sensors say now, as metrics; utilization since the last call. One that fails is left out."""
        found: dict[str, float] = {}
        for sensor in self._sensors:
            sensor.clear_metrics()
            try:
                sensor.collect_metrics()
                found |= sensor.aggregate_metrics()
            except Exception as error:  # a GPU that fell off the bus must not end a training that still runs
                logger.debug("%s: %s", type(sensor).__name__, error)
        return {self._prefix + name: float(value) for name, value in found.items()}


def hardware() -> dict[str, str]:
    """This machine as tags of a run: `caspi.cpus`, and where there are any `caspi.gpus` and `caspi.gpu_driver`.

    A GPU belongs to the machine that trains: let a worker ask, the driver's machine may have none.
    """
    tags = {"caspi.cpus": f"{os.cpu_count()} x {_cpu_name()}"}
    with contextlib.suppress(Exception), _nvml() as nvml:  # no NVIDIA driver here
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        names = Counter(_text(nvml.nvmlDeviceGetName(handle)) for handle in handles)
        tags["caspi.gpus"] = ", ".join(f"{count} x {name}" for name, count in names.items())
        tags["caspi.gpu_driver"] = _text(nvml.nvmlSystemGetDriverVersion())
    return tags


def describe_device() -> str:
    """What a model in this process computes on: the GPU's name, or the CPU's and how many threads torch takes of it."""
    torch = sys.modules.get("torch")  # whoever has not imported it computes without
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    num_threads = torch.get_num_threads() if torch is not None else 1
    return f"{_cpu_name()}, {num_threads} thread{'s' if num_threads > 1 else ''}"


def _monitors() -> list[Callable[[], Any]]:
    import ray  # noqa: F401, puts its psutil on the path

    _import_nvml()
    with quiet_import():
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    # A GPU that does not know its power would say so at every reading.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    return [CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor]


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    nvml = _import_nvml()
    nvml.nvmlInit()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _import_nvml() -> Any:
    """NVIDIA's bindings: those that are installed, else Ray's copy under the name by which MLflow imports them."""
    with contextlib.suppress(ImportError):
        return importlib.import_module("pynvml")
    from ray._private.thirdparty import pynvml

    sys.modules["pynvml"] = pynvml
    return pynvml


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return os.uname().machine


def _text(value: str | bytes) -> str:
    """Older bindings give bytes."""
    return value.decode() if isinstance(value, bytes) else value
