"""Experiment tracking: metrics of pretraining runs and sweep trials as TensorBoard event files and on MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.tracking.pretraining import PretrainingTracker
    from ctplatform.tracking.trials import TrialEntry, TrialMLflow, TrialTensorBoard
    from ctplatform.tracking.uri import tracking_uri

__all__ = ["PretrainingTracker", "TrialEntry", "TrialMLflow", "TrialTensorBoard", "tracking_uri"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "PretrainingTracker": "pretraining",
        "TrialEntry": "trials",
        "TrialMLflow": "trials",
        "TrialTensorBoard": "trials",
        "tracking_uri": "uri",
    },
)
