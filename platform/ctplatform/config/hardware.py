"""Settings that change where and how fast a stage runs, not what it computes.

Finished work is kept, and an interrupted run is continued, when only these differ.
"""

from __future__ import annotations

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
    "best_by",
    "max_failures",
    "log_every",
    "on_collapse",
    "probe",
}
"""Keys of `pretrain`."""
