"""Settings that change where and how fast a stage runs, not what it computes.

Finished work is kept, and an interrupted run is continued, when only these differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctplatform.config.training import PretrainConfig

PREPARATION = {"num_cpus", "memory_gb", "prefetch", "shards"}
"""Keys of `prepare`; `shards` holds how patches are packed, not what they are."""

LIMITS = {"max_seconds", "max_voxels", "max_bytes_unpacked"}
"""Keys of `prepare` that decide which scans are refused, not what the others look like."""

PRETRAINING = {
    "num_workers",
    "min_workers",
    "resize_every_s",
    "use_gpu",
    "cpus_per_worker",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "max_failures",
    "log_every",
    "on_collapse",
}
"""Keys of `pretrain`."""

SELECTION = {"best_by", "probe"}
"""Keys of `pretrain` that change the result only where the best encoder by the probe is published."""


def without_effect(config: PretrainConfig) -> set[str]:
    """Keys of `pretrain` that the weights of a run with these settings do not depend on."""
    return PRETRAINING | (SELECTION if config.best_by != "probe" else set())
