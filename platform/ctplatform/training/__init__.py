"""Contrastive pretraining: the feed of batches, the training loop, its checkpoints, and the stage on Ray Train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.training.batch import Batch
    from ctplatform.training.checkpoints import Checkpoint, Checkpoints
    from ctplatform.training.feed import Feed
    from ctplatform.training.loop import Loop
    from ctplatform.training.online_probe import OnlineProbe
    from ctplatform.training.pretrain import PretrainSummary
    from ctplatform.training.runs import ScanEntry, read_metrics, run_name, training_scans

__all__ = [
    "Batch",
    "Checkpoint",
    "Checkpoints",
    "Feed",
    "Loop",
    "OnlineProbe",
    "PretrainSummary",
    "ScanEntry",
    "read_metrics",
    "run_name",
    "training_scans",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Batch": "batch",
        "Checkpoint": "checkpoints",
        "Checkpoints": "checkpoints",
        "Feed": "feed",
        "Loop": "loop",
        "OnlineProbe": "online_probe",
        "PretrainSummary": "pretrain",
        "ScanEntry": "runs",
        "read_metrics": "runs",
        "run_name": "runs",
        "training_scans": "runs",
    },
)
