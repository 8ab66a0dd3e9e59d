"""Scores of predictions with bootstrap intervals over subjects: subjects' labels, label maps, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.metrics.bootstrap import interval, paired_p, resamples, wilson
    from ctplatform.metrics.calibration import Calibration, calibrate
    from ctplatform.metrics.overlap import SCORES
    from ctplatform.metrics.scores import METRICS, Metric, Targets
    from ctplatform.metrics.stratification import folds, stratified_order

__all__ = [
    "METRICS",
    "SCORES",
    "Calibration",
    "Metric",
    "Targets",
    "calibrate",
    "folds",
    "interval",
    "paired_p",
    "resamples",
    "stratified_order",
    "wilson",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "METRICS": "scores",
        "SCORES": "overlap",
        "Calibration": "calibration",
        "Metric": "scores",
        "Targets": "scores",
        "calibrate": "calibration",
        "folds": "stratification",
        "interval": "bootstrap",
        "paired_p": "bootstrap",
        "resamples": "bootstrap",
        "stratified_order": "stratification",
        "wilson": "bootstrap",
    },
)
