"""A synthetic chest-CT cohort with known truth: anatomy, emphysema, nodules, scanners, clinical labels.

`parameters` draws all random values of a subject; `anatomy`, `trees`, `texture` and `disease` shape it on the grids of
`grid`; `scene` renders it with `drawing`; `scan` adds the scanner; `regions` and `labels` follow from the truth;
`subject` puts one together, `files` writes a cohort to a folder, `cohort` to a workspace.
docs/explanation/phantom.md compares it with real CT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.lungs.mask import LEFT, RIGHT
    from ctplatform.phantom.cohort import phantom_cohort
    from ctplatform.phantom.files import generate, generate_subject, write_cohort_files
    from ctplatform.phantom.labels import gold_stage, hazard_per_year
    from ctplatform.phantom.subject import PhantomSubject, make_subject

__all__ = [
    "LEFT",
    "RIGHT",
    "PhantomSubject",
    "generate",
    "generate_subject",
    "gold_stage",
    "hazard_per_year",
    "make_subject",
    "phantom_cohort",
    "write_cohort_files",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "LEFT": "scene",
        "RIGHT": "scene",
        "PhantomSubject": "subject",
        "generate": "files",
        "generate_subject": "files",
        "gold_stage": "labels",
        "hazard_per_year": "labels",
        "make_subject": "subject",
        "phantom_cohort": "cohort",
        "write_cohort_files": "files",
    },
)
