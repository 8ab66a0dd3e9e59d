"""Which CT series of public collections become scans, and a reason for each of the others.

Of each study one series is taken, as of the series of a folder (`ctplatform.imaging.dicom_choice.choose_series`), as
far as the index and the series descriptions tell: geometry, tilt and missing slices show only when a series is read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.cohort.idc_series import Description
from ctplatform.imaging.dicom_choice import is_sharp_kernel
from ctplatform.imaging.volume_checks import MIN_SLICES

if TYPE_CHECKING:
    import pandas as pd

_CHEST = re.compile(r"CHEST|LUNG|THORAX|MEDIASTINUM|WHOLEBODY")
_THICKNESS_CLASSES_MM = (1.5, 3.0, 5.0)


@dataclass(frozen=True)
class Choice:
    """What of the index becomes a scan table.

    Attributes:
        collections: `collection_id` of IDC, such as nlst or lidc_idri.
        subjects: so many people at most, all their scans; None: all.
        max_bytes: people are added until the next one would go beyond this; None: no limit.
        kernels: reconstruction kernels to keep, by name, or the classes "smooth" and "sharp"; empty: all.
        where: an SQL condition on the columns of the index, and on kernel and slice_thickness_mm; needs duckdb.
        every_series: every axial series, not the best one of each study.
        seed: of the order in which people are taken; a larger cohort of the same seed holds the smaller one.
        store: "s3" or "gs", which hold the same files.
    """

    collections: tuple[str, ...]
    subjects: int | None = None
    max_bytes: float | None = None
    kernels: tuple[str, ...] = ()
    where: str = ""
    every_series: bool = False
    seed: int = 0
    store: str = "s3"


def select(series: pd.DataFrame, described: np.ndarray, choice: Choice) -> np.ndarray:
    """Why each series is passed over; empty for those that are taken.

    Args:
        series: rows of the index, as `idc_index.read_index` returns them.
        described: a `Description` of each.
        choice: which are wanted.
    """
    reasons = np.full(len(series), "", object)
    _exclude(series, described, choice, reasons)
    if not choice.every_series:
        _best_of_each_study(series, described, reasons)
    _subsample(series, choice, reasons)
    return reasons


def subject_ids(series: pd.DataFrame) -> np.ndarray:
    """Names of people: collection and PatientID, which these collections have replaced by a study number already."""
    names = series["collection_id"].astype(str) + "-" + series["PatientID"].astype(str)
    ids: np.ndarray = names.map(_safe).to_numpy(object)
    return ids


def _safe(name: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:80]
    return clean if clean == name else f"{clean}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _exclude(series: pd.DataFrame, described: np.ndarray, choice: Choice, reasons: np.ndarray) -> None:
    """Say of each series that cannot be used why, the first reason that holds."""
    plane = np.array([d.plane for d in described])
    body = series["BodyPartExamined"].astype(object).fillna("")
    chest = {part: not part or bool(_CHEST.search(part)) for part in body.unique()}
    kernels = np.array([_wanted_kernel(d.kernel, choice.kernels) for d in described])
    tests = {
        "result of an analysis, not an acquisition": series["analysis_result_id"].notna().to_numpy(),
        "not of the class CT Image Storage": (series["sop_class_name"] != "CT Image Storage").to_numpy(),
        "localizer": plane == "localizer",
        "not axial": plane == "reformatted",
        f"fewer than {MIN_SLICES} images": (series["instanceCount"] < MIN_SLICES).to_numpy(),
        "not of the chest": ~body.map(chest).to_numpy(bool),
        "excluded by --where": ~series["where"].to_numpy(bool),
        f"kernel is not {' or '.join(choice.kernels)}": ~kernels,
    }
    for reason, holds in tests.items():
        reasons[(reasons == "") & holds] = reason


def _wanted_kernel(kernel: str, wanted: Sequence[str]) -> bool:
    if not wanted:
        return True
    kind = "sharp" if is_sharp_kernel(kernel) else "smooth"
    return bool(kernel) and any(name.upper() == kernel.upper() or name.lower() == kind for name in wanted)


def _best_of_each_study(series: pd.DataFrame, described: np.ndarray, reasons: np.ndarray) -> None:
    """Keep the series that `dicom_choice.choose_series` would keep of each study, as far as the index tells.

    A thickness that is unknown counts as between 3 and 5 mm, and such a series' coverage as complete.
    """
    rows = np.flatnonzero(reasons == "")
    study = series["StudyInstanceUID"].to_numpy()[rows]
    uid = series["SeriesInstanceUID"].to_numpy()[rows]
    images = series["instanceCount"].to_numpy()[rows]
    about: list[Description] = list(described[rows])
    thickness = np.array([d.thickness_mm or np.nan for d in about], np.float64)
    coverage = images * thickness
    _, group = np.unique(study.astype(str), return_inverse=True)
    longest = np.zeros(group.max(initial=0) + 1)
    np.fmax.at(longest, group, coverage)
    thick = np.searchsorted(_THICKNESS_CLASSES_MM, thickness)
    rank = [
        ("derived", np.array([d.derived for d in about])),
        ("shorter coverage", coverage < 0.8 * longest[group]),  # false where unknown
        ("thicker slices", np.where(np.isnan(thickness), 2, thick)),
        ("sharper kernel", np.array([is_sharp_kernel(d.kernel) for d in about])),
        ("fewer images", -images),
        ("later UID", np.argsort(np.argsort(uid.astype(str), kind="stable"))),
    ]
    order = np.lexsort([values for _, values in reversed(rank)] + [group])
    first = np.full(len(longest), -1)
    head = np.concatenate([[True], np.diff(group[order]) != 0]) if len(order) else np.zeros(0, bool)
    first[group[order][head]] = order[head]
    best = first[group]
    open_ = best != np.arange(len(rows))
    for name, values in rank:
        differs = open_ & (values != values[best])
        reasons[rows[differs]] = f"{name} than another series of the study"
        open_ &= ~differs


def _subsample(series: pd.DataFrame, choice: Choice, reasons: np.ndarray) -> None:
    """Take whole people in an order that depends on the seed and their IDs only, until a limit is reached."""
    if choice.subjects is None and choice.max_bytes is None:
        return
    rows = np.flatnonzero(reasons == "")
    people = subject_ids(series)[rows]
    sizes = series["series_size_MB"].to_numpy()[rows] * 1e6
    names, group = np.unique(people, return_inverse=True)
    keys = [hashlib.sha256(f"{choice.seed}:{name}".encode()).digest() for name in names]
    order = np.array(sorted(range(len(names)), key=lambda i: keys[i]), int)
    each = np.bincount(group, weights=sizes, minlength=len(names))[order]
    taken = np.ones(len(names), bool)
    if choice.max_bytes is not None:
        taken &= np.cumsum(each) <= choice.max_bytes
    if choice.subjects is not None:
        taken &= np.arange(len(names)) < choice.subjects
    chosen = np.zeros(len(names), bool)
    chosen[order] = taken
    limits = [f"{choice.subjects:,} subjects"] if choice.subjects is not None else []
    limits += [f"{choice.max_bytes / 1e12:g} TB"] if choice.max_bytes is not None else []
    reasons[rows[~chosen[group]]] = (
        f"of subjects beyond the first {' and '.join(limits)} by seed {choice.seed}"
    )
