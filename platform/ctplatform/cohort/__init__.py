"""The cohort: scans found in folders, subjects under pseudonyms, and the scan table that lists both.

`discovery` is the entry point of the search, `tree_search` walks the tree, `scan_rules` decides what is a scan,
`repeated_scans` which are the same, `pseudonyms` names the subjects, `table` reads, checks and writes the scan table,
`label_table` joins a second one with labels.
Public scans: `idc` makes the table, `idc_index` reads the index of the Imaging Data Commons, `idc_selection` chooses
from it, `idc_series` reads the series descriptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.cohort.discovery import Discovery, discover
    from ctplatform.cohort.idc import public_cohort
    from ctplatform.cohort.idc_selection import Choice
    from ctplatform.cohort.label_table import LabelJoin, join_label_table
    from ctplatform.cohort.table import COLUMNS, names_label_maps, read_cohort, write_cohort

__all__ = [
    "COLUMNS",
    "Choice",
    "Discovery",
    "LabelJoin",
    "discover",
    "join_label_table",
    "names_label_maps",
    "public_cohort",
    "read_cohort",
    "write_cohort",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "COLUMNS": "table",
        "Choice": "idc_selection",
        "Discovery": "discovery",
        "LabelJoin": "label_table",
        "discover": "discovery",
        "join_label_table": "label_table",
        "names_label_maps": "table",
        "public_cohort": "idc",
        "read_cohort": "table",
        "write_cohort": "table",
    },
)
