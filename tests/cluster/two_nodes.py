"""A Ray cluster of a head without CPUs and two workers, in a process of its own; for tests that kill a node.

Prints its address; each line "kill" on standard input kills one worker node with SIGKILL, "drain" gives one a minute's
notice of preemption, "add" adds one; ends with the end of input. Needs RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH in the
environment.
"""

from __future__ import annotations

import subprocess
import sys

import psutil
from ray.cluster_utils import Cluster

from tests.cluster.processes import BIN, kill_node


def main() -> None:
    """Start, follow the commands of standard input, end."""
    store = {"object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    nodes = [cluster.add_node(num_cpus=1, **store) for _ in range(2)]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            node = nodes.pop()
            (raylet,) = node.all_processes["raylet"]
            kill_node(psutil.Process(raylet.process.pid))
            cluster.remove_node(node, allow_graceful=False)
        elif line.strip() == "drain":
            notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
            which = ["--address", cluster.address, "--node-id", nodes[-1].node_id]
            command = [str(BIN / "ray"), "drain-node", *which, *notice, "--deadline-remaining-seconds", "60"]
            subprocess.run(command, check=True, stdout=sys.stderr)
        else:
            nodes.append(cluster.add_node(num_cpus=1, **store))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
