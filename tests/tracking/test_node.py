"""What a machine says of itself."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from caspi.tracking import MetricWriter, NodeMonitor, hardware
from caspi.tracking.client import client


class FakeNvml(ModuleType):
    """NVIDIA's bindings on a machine with two GPUs, of which the second does not know its power."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.num_open = 0

    def nvmlInit(self) -> None:
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.65"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA A100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=20e9, total=80e9)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=97)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if handle == 1:
            raise self.NVMLError("not supported")
        return 300_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 400_000


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    import mlflow.system_metrics.metrics.gpu_monitor as mlflow_monitor

    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(mlflow_monitor, "pynvml", nvml, raising=False)
    return nvml


def test_a_machine_without_a_gpu_has_the_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FakeNvml, "nvmlInit", _fails)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    metrics = NodeMonitor("node_0").collect()
    assert {
        "system/node_0/cpu_utilization_percentage",
        "system/node_0/system_memory_usage_percentage",
        "system/node_0/disk_available_megabytes",
        "system/node_0/network_transmit_megabytes",
    } <= metrics.keys()
    assert not [key for key in metrics if "gpu" in key]
    assert metrics["system/node_0/system_memory_usage_megabytes"] > 10
    assert hardware().keys() == {"caspi.cpus"}


def test_every_gpu_has_its_numbers(two_gpus: FakeNvml):
    metrics = NodeMonitor("node_3").collect()
    for gpu in (0, 1):
        assert metrics[f"system/node_3/gpu_{gpu}_utilization_percentage"] == 97
        assert metrics[f"system/node_3/gpu_{gpu}_memory_usage_percentage"] == 25
    assert metrics["system/node_3/gpu_0_power_usage_watts"] == 300
    assert "system/node_3/gpu_1_power_usage_watts" not in metrics
    assert hardware()["caspi.gpus"] == "2 x NVIDIA A100"
    assert hardware()["caspi.gpu_driver"] == "580.65"
    assert two_gpus.num_open == 1, "the monitor's own, for as long as it lives"


def test_a_sensor_that_fails_is_left_out(two_gpus: FakeNvml, monkeypatch: pytest.MonkeyPatch):
    monitor = NodeMonitor("node_0")
    monkeypatch.setattr(FakeNvml, "nvmlDeviceGetMemoryInfo", _fails)
    metrics = monitor.collect()
    assert not [key for key in metrics if "gpu" in key]
    assert "system/node_0/cpu_utilization_percentage" in metrics


def test_ray_brings_what_the_sensors_need():
    from ray._private.thirdparty import pynvml

    assert pynvml.nvmlInit
    assert pynvml.NVMLError


def test_its_numbers_are_a_run_s_system_metrics(mlflow_uri: str, run_id: str, tmp_path: Path):
    writer = MetricWriter(mlflow_uri, run_id, spool=tmp_path / "spool.jsonl")
    writer.log(NodeMonitor("node_0").collect(), 1)
    writer.log_tags(hardware())
    assert writer.close() == 0
    with client(mlflow_uri) as mlflow:
        data = mlflow.get_run(run_id).data
    assert data.metrics["system/node_0/disk_usage_percentage"] > 0
    assert data.tags["caspi.cpus"]


def _fails(*arguments: object) -> None:
    raise OSError("the device is gone")
