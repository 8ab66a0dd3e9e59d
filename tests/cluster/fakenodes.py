"""Ray's provider of fake nodes, workers as processes of this machine, for the monitor of the autoscaling tests."""

from __future__ import annotations

from typing import Any

from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class FakeNodes(FakeMultiNodeProvider):
    """Each node unpacks jobs' code into a folder of its own.

    By default all of a machine's nodes unpack into one, and a node that goes takes it along: the driver, on the head,
    then stands in a folder that is no more.
    """

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"runtime_resources_{self._next_node_id}"
        super()._create_node_with_resources_and_labels(*arguments)
