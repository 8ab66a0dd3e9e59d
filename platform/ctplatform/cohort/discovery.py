"""Discovery of the scans below a folder, as a scan table with pseudonymous subjects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.cohort.table import COLUMNS, MAX_LINES
from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.cohort.scan_rules import FoundScan
    from ctplatform.config.cluster import RayConfig


ONE_PERSON_SCANS = 3
"""Scans of one person above which a PatientID that all scans share is worth a note."""


@dataclass(frozen=True)
class Discovery:
    """Scans of a tree of folders.

    Attributes:
        table: columns `COLUMNS`, one row a scan, sorted by path.
        passed_over: "path below the folder: reason why it is no scan". For the screen only: paths may name people.
        notes: what to know before the subjects are used.
    """

    table: pd.DataFrame
    passed_over: list[str]
    notes: list[str]


def discover(
    folder: str | Path,
    *,
    csv_path: str | Path | None = None,
    every_series: bool = False,
    ray_config: RayConfig | None = None,
) -> Discovery:
    """Find volumes and DICOM series below a folder, from headers alone (`ctplatform.cohort.scan_rules` has the rules).

    Args:
        csv_path: where the table will be written. The key of the subject pseudonyms lies beside it
            (`cohort.csv` -> `cohort.key`, mode 0600) and is made on first use; keep it to get the same pseudonyms
            again. Without it a temporary key is used: subjects are distinct, but get new pseudonyms every time.
        every_series: take every axial CT series, not the best one of each study and folder.
        ray_config: for a tree of thousands of files, which Ray tasks search; None: search in this process.

    Raises:
        CohortError: no such folder, or nothing usable in it.
    """
    import pandas as pd

    from ctplatform.cohort.pseudonyms import read_or_make_key, temporary_key
    from ctplatform.cohort.tree_search import search_tree

    root = Path(folder).expanduser()
    if not root.is_dir():
        raise CohortError(
            f"there is no folder {folder}", "Give the folder that holds the scans", code="missing-path"
        )
    key = temporary_key() if csv_path is None else read_or_make_key(Path(csv_path).with_suffix(".key"))
    found = search_tree(root.absolute(), key=key, every_series=every_series, ray_config=ray_config)
    scans, passed_over = _named(found.scans), found.passed_over
    if not scans:
        shown = "".join(f"\n  {line}" for line in passed_over[:MAX_LINES])
        raise CohortError(f"no chest CT found below {folder}{shown}", "Give another folder", code="empty")
    rows = [(s.scan_id, s.subject_id, s.location, s.series_uid) for s in scans]
    return Discovery(pd.DataFrame(rows, columns=list(COLUMNS)), passed_over, _notes(scans))


def _named(scans: Sequence[FoundScan]) -> list[FoundScan]:
    """With the scan_id as the subject where a folder stands for a person and holds one scan only."""
    count = Counter(s.subject_id for s in scans)
    return [
        replace(s, subject_id=s.scan_id) if s.placeholder and count[s.subject_id] == 1 else s for s in scans
    ]


def _notes(scans: Sequence[FoundScan]) -> list[str]:
    """Where subjects may be wrong: PatientIDs that name no person, and one PatientID for everybody."""
    notes = []
    nameless = [s for s in scans if s.placeholder]
    if nameless:
        subjects = len({s.subject_id for s in nameless})
        notes.append(
            f"the PatientID of {len(nameless)} of {len(scans)} scan(s) is missing or a placeholder; their folder "
            f"counts as the subject ({subjects} in all). Give scans of one person a common subject_id in the table"
        )
    identified = [s for s in scans if s.form == "DICOM" and not s.placeholder]
    if len(identified) > ONE_PERSON_SCANS and len({s.subject_id for s in identified}) == 1:
        notes.append(
            f"all {len(identified)} DICOM scans have the same PatientID and count as one subject. If they are of "
            "several people, give each a subject_id in the table"
        )
    return notes
