"""Discovery of the scans below a folder, as a scan table with pseudonymous subjects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.cohort.table import COLUMNS, MAX_LINES
from ctplatform.errors import CohortError

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.cluster import RayConfig


@dataclass(frozen=True)
class Discovery:
    """Scans of a tree of folders.

    Attributes:
        table: columns `COLUMNS`, one row a scan, sorted by path.
        passed_over: "path below the folder: reason why it is no scan". For the screen only: paths may name people.
    """

    table: pd.DataFrame
    passed_over: list[str]


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
    scans, passed_over = search_tree(
        root.absolute(), key=key, every_series=every_series, ray_config=ray_config
    )
    if not scans:
        shown = "".join(f"\n  {line}" for line in passed_over[:MAX_LINES])
        raise CohortError(f"no chest CT found below {folder}{shown}", "Give another folder", code="empty")
    rows = [(s.scan_id, s.subject_id, str(s.path), s.series_uid) for s in scans]
    return Discovery(pd.DataFrame(rows, columns=list(COLUMNS)), passed_over)
