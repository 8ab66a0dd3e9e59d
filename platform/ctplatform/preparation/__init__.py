"""From scans to patches: the atlas, then of each scan its mask, registration, samples, quality and overlay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.preparation.overlay import overlay_png
    from ctplatform.preparation.plan import Plan, cause_in_words, make_plan
    from ctplatform.preparation.prepare import PrepareSummary
    from ctplatform.preparation.quality import Verdict, assess, measure
    from ctplatform.preparation.sampling import Patches, sample_patches
    from ctplatform.preparation.scan import prepare_scan, process_scan

__all__ = [
    "Patches",
    "Plan",
    "PrepareSummary",
    "Verdict",
    "assess",
    "cause_in_words",
    "make_plan",
    "measure",
    "overlay_png",
    "prepare_scan",
    "process_scan",
    "sample_patches",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Patches": "sampling",
        "Plan": "plan",
        "PrepareSummary": "prepare",
        "Verdict": "quality",
        "assess": "quality",
        "cause_in_words": "plan",
        "make_plan": "plan",
        "measure": "quality",
        "overlay_png": "overlay",
        "prepare_scan": "scan",
        "process_scan": "scan",
        "sample_patches": "sampling",
    },
)
