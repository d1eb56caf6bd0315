"""A run on a cluster whose machines come and go. Started by test_elastic.py in a process of its own.

python -m tests.training.changing_cluster RECIPE CORPUS OUTPUT
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from caspi.recipe import load_recipe
from caspi.training import train
from tests.training.whole_runs import lines, wait_for


def main(recipe: str, corpus: str, output: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    staying, leaving = (cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2))
    assert staying is not leaving
    ray.init(address=cluster.address, log_to_driver=False)
    # Ray starts machines from the main thread only.
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(train, load_recipe(recipe), corpus=corpus, output=output)
        change(cluster, leaving, Path(output))
        run.result(timeout=300)
    ray.shutdown()
    cluster.shutdown()


def change(cluster: Cluster, leaving, output: Path) -> None:
    """Say that a machine will be taken away; take it, once nobody works there; bring another one."""
    wait_for(lambda: len(lines(output)) >= 5)
    deadline_ms = int((time.time() + 60) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    GcsClient(cluster.address).drain_node(leaving.node_id, reason, "reclaimed", deadline_ms)
    print("drained after step", lines(output)[-1]["step"], flush=True)
    wait_for(lambda: len(groups(output)) >= 2)
    cluster.remove_node(leaving, allow_graceful=False)
    seen = len(lines(output))
    wait_for(lambda: len(lines(output)) >= seen + 3)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    wait_for(lambda: [len(group) for group in groups(output).values()][2:] == [2])
    print("groups of", [len(group) for group in groups(output).values()], "workers", flush=True)


def groups(output: Path) -> dict[str, list[str]]:
    """The ranks of each group of workers that has started."""
    found: dict[str, list[str]] = {}
    for path in sorted((output / "seen").glob("*.jsonl")):
        name, _, rank = path.stem.partition("-")
        found.setdefault(name, []).append(rank)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
