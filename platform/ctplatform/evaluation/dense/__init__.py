"""Tasks whose labels are label maps: emphysema subtypes by dense prediction, segmentation of nodules and lobes.

`sources` says which scans have label maps, `lung_volume` is a scan's lungs at 1 mm, `windows` slide over them, `tiles`
hold the label map's classes, `labelled_scan` makes and commits all of these, `features` encodes the windows once.
`assembly` joins them with split and cohort to `problem`, whose predictions `regions` and `segmentation` make.
docs/explanation/evaluation.md describes the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.evaluation.dense.assembly import volume_problems
    from ctplatform.evaluation.dense.head import WindowHead
    from ctplatform.evaluation.dense.lung_volume import LungVolume, read_lung_volume
    from ctplatform.evaluation.dense.problem import VolumeProblem
    from ctplatform.evaluation.dense.sources import labelled_scans

__all__ = [
    "LungVolume",
    "VolumeProblem",
    "WindowHead",
    "labelled_scans",
    "read_lung_volume",
    "volume_problems",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "LungVolume": "lung_volume",
        "VolumeProblem": "problem",
        "WindowHead": "head",
        "labelled_scans": "sources",
        "read_lung_volume": "lung_volume",
        "volume_problems": "assembly",
    },
)
