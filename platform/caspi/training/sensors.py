"""The sensors of a machine, read from a thread: importing MLflow's monitors takes seconds that no step should wait."""

import threading

_INTERVAL_S = 5.0


class Sensors:
    """What the machine's CPU, memory, disk, network and GPUs did last; nothing until the first reading."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.latest: dict[str, float] = {}
        threading.Thread(target=self._read, name="sensors", daemon=True).start()

    def _read(self) -> None:
        from caspi.tracking.node import NodeMonitor

        monitor, never = NodeMonitor(self._node), threading.Event()
        while not never.wait(_INTERVAL_S):
            self.latest = monitor.collect()
