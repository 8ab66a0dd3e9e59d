"""TODO."""

from __future__ import annotations

#: Settings that change where and how fast a run goes, not what it computes: the same run goes on under others.
HARDWARE = {
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
    "probe",
}
