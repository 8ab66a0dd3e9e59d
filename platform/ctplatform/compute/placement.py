"""Where a stage runs: custom resources and node labels of the recipe as options of Ray."""

from __future__ import annotations

from typing import Any

from ctplatform.config.cluster import PlacementConfig


def ray_options(placement: PlacementConfig) -> dict[str, Any]:
    """Options of a task or actor; empty where the recipe has no placement."""
    options: dict[str, Any] = {}
    if placement.resources:
        options["resources"] = dict(placement.resources)
    if placement.labels:
        options["label_selector"] = dict(placement.labels)
    return options
