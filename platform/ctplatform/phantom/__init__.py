"""A synthetic chest-CT cohort with known truth: anatomy, emphysema, nodules, scanners, clinical labels.

`person` draws, `anatomy`, `trees`, `texture` and `disease` shape, `scene` draws them on a
grid, `scan` adds the scanner, `labels` follows the truth, `files` writes.
docs/explanation/phantom.md compares it with real CT.
"""

from ctplatform.phantom.files import generate, generate_subject, write_cohort_files
from ctplatform.phantom.labels import gold_stage, hazard_per_year
from ctplatform.phantom.scene import LEFT, RIGHT
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
    "write_cohort_files",
]
