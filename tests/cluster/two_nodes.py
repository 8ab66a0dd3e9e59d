"""A Ray cluster of a head without CPUs and two workers, in a process of its own; for tests that kill a node.

Prints its address; each line "kill" on standard input kills one worker node with SIGKILL, "add" adds one; ends with the
end of input. Needs RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH in the environment.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import psutil
from ray.cluster_utils import Cluster


def main() -> None:
    """Start, obey, end."""
    store = {"object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    nodes = [cluster.add_node(num_cpus=1, **store) for _ in range(2)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            _kill(cluster, nodes.pop())
        else:
            nodes.append(cluster.add_node(num_cpus=1, **store))
        print("done", flush=True)
    cluster.shutdown()


def _kill(cluster: Cluster, node: Any) -> None:
    """Like a machine that loses its power: workers are not left to find out by themselves that their raylet is gone."""
    raylets = [
        found.process.pid for kind, all_ in node.all_processes.items() if kind == "raylet" for found in all_
    ]
    tree = [child for pid in raylets for child in psutil.Process(pid).children(recursive=True)]
    cluster.remove_node(node, allow_graceful=False)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main()
