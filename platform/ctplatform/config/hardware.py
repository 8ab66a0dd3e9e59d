"""Settings that change where and how fast a stage runs, not what it computes.

Finished work is kept, and an interrupted run is continued, when only these differ.
"""

from __future__ import annotations

PREPARATION = {"num_cpus", "memory_gb"}
"""Keys of `prepare`."""

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
