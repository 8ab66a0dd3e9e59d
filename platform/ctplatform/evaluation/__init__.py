"""The label-efficiency sweep: labels predicted from few of them, by every initialisation, scored with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.evaluation.assembly import assemble
    from ctplatform.evaluation.cells import Cell, Trial
    from ctplatform.evaluation.context import SweepContext
    from ctplatform.evaluation.problems import Problem, SubjectProblem
    from ctplatform.evaluation.sweep import SweepSummary
    from ctplatform.evaluation.trial import evaluate

__all__ = [
    "Cell",
    "Problem",
    "SubjectProblem",
    "SweepContext",
    "SweepSummary",
    "Trial",
    "assemble",
    "evaluate",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Cell": "cells",
        "Problem": "problems",
        "SubjectProblem": "problems",
        "SweepContext": "context",
        "SweepSummary": "sweep",
        "Trial": "cells",
        "assemble": "assembly",
        "evaluate": "trial",
    },
)
