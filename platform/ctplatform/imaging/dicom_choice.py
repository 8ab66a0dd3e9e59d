"""Which of the DICOM series of a study is the chest CT to use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_geometry import SeriesGeometry, series_geometry
from ctplatform.imaging.dicom_headers import Series
from ctplatform.imaging.dicom_series import read_pixels
from ctplatform.imaging.dicom_uniformity import is_derived

AXIAL_COSINE = 0.8
"""Least cosine between the slices' normal and the body's long axis."""

LOOKED_AT = 7
"""Slices of a series in which lung is looked for."""

LUNG_HU = (-970, -500)
"""Lung; gas of stomach and bowel is darker."""

WALL_MM = 6.0
"""Of tissue before and behind lung; foam of a table has it on one side."""


def choose_series(found: Sequence[Series]) -> tuple[Series | None, list[tuple[Series, str]]]:
    """The axial CT series of a study to use, and every other one with the reason against it.

    Series that `series_geometry` refuses and those that are not axial cannot be used. The others are ranked by, in
    this order: not of another part of the body than the chest; where the headers leave that open and the series cover
    different regions, at least 80% of the most lung that is seen; original before derived; at least 80% of the longest
    coverage; thinner slices, in the classes up to 1.5, 3, 5 mm and more; a smooth kernel before a sharp one; more
    slices; the smaller UID. Pixels are read in the second case alone, of `LOOKED_AT` slices.

    Returns:
        The series, None if none can be used; and the others, each with its reason.
    """
    usable: list[tuple[Series, SeriesGeometry]] = []
    rejected: list[tuple[Series, str]] = []
    for series in found:
        try:
            geometry = series_geometry(series)
        except ScanError as error:
            rejected.append((series, error.problem))
            continue
        if abs(geometry.direction[8]) < AXIAL_COSINE:
            rejected.append((series, "not axial"))
        else:
            usable.append((series, geometry))
    if not usable:
        return None, rejected
    chest = [item for item in usable if item[0].body_part != "elsewhere"] or usable
    lung_mm = (
        {series.uid: lung_extent_mm(geometry) for series, geometry in chest} if _region_open(chest) else {}
    )
    most = max(lung_mm.values(), default=0.0)

    def little_lung(series: Series) -> bool:
        return lung_mm.get(series.uid, 0.0) < 0.8 * most

    longest = max(_coverage_mm(geometry) for series, geometry in chest if not little_lung(series))

    def rank(item: tuple[Series, SeriesGeometry]) -> tuple[Any, ...]:
        series, geometry = item
        derived = is_derived(geometry.slices[0])
        short = _coverage_mm(geometry) < 0.8 * longest
        thickness = max(geometry.spacing[2], series.thickness or 0.0)
        thick = int(np.searchsorted([1.5, 3.0, 5.0], thickness))
        elsewhere = series.body_part == "elsewhere"
        return (
            elsewhere,
            little_lung(series),
            derived,
            short,
            thick,
            is_sharp_kernel(series.kernel),
            -len(geometry.slices),
            series.uid,
        )

    first, *others = sorted(usable, key=rank)
    reasons = (
        "of another part of the body",
        "less lung in it",
        "derived",
        "shorter coverage",
        "thicker slices",
        "sharper kernel",
        "fewer slices",
        "later UID",
    )
    for other in others:
        at = next(i for i, (a, b) in enumerate(zip(rank(first), rank(other))) if a != b)
        than = "; the study has one of the chest" if at == 0 else " than another series of the study"
        rejected.append((other[0], f"{reasons[at]}{than}"))
    return first[0], rejected


def lung_extent_mm(geometry: SeriesGeometry) -> float:
    """Length along the slices' normal that shows lung, from a few slices; the whole where they cannot be decoded."""
    places = np.linspace(0, len(geometry.slices) - 1, LOOKED_AT + 2)[1:-1].round().astype(int)
    looked_at = replace(geometry, slices=tuple(geometry.slices[k] for k in places))
    try:
        hu_ZYX, _, _ = read_pixels(looked_at)
    except ScanError:  # reading the series will say so; another one is no answer to it
        return _coverage_mm(geometry)
    share = np.mean([_shows_lung(hu_YX, geometry.spacing[1]) for hu_YX in hu_ZYX])
    return float(share) * _coverage_mm(geometry)


def _shows_lung(hu_YX: NDArray[Any], y_mm: float) -> bool:
    """Whether dark, textured tissue with the body before and behind it is a tenth of a slice's tissue or more."""
    tissue_YX = hu_YX > -200
    before_YX = np.cumsum(tissue_YX, axis=0) * y_mm
    enclosed_YX = (before_YX >= WALL_MM) & (before_YX[-1] - before_YX >= WALL_MM)
    lung = np.count_nonzero(enclosed_YX & (hu_YX > LUNG_HU[0]) & (hu_YX < LUNG_HU[1]))
    return bool(lung > 0.1 * (lung + np.count_nonzero(tissue_YX)))


def _region_open(items: Sequence[tuple[Series, SeriesGeometry]]) -> bool:
    """Whether some series do not say that they show the chest, and two share less than half of the shorter one."""
    if all(series.body_part == "chest" for series, _ in items):
        return False
    normal = np.array(items[0][1].direction).reshape(3, 3)[:, 2]
    ends = []
    for _, geometry in items:
        places = [float(normal @ geometry.slices[k].position) for k in (0, -1)]
        ends.append((min(places), max(places)))
    return any(
        min(a[1], b[1]) - max(a[0], b[0]) < 0.5 * min(a[1] - a[0], b[1] - b[0])
        for a, b in combinations(ends, 2)
    )


def _coverage_mm(geometry: SeriesGeometry) -> float:
    return len(geometry.slices) * geometry.spacing[2]


def is_sharp_kernel(kernel: str) -> bool:
    """Whether a reconstruction kernel (`Series.kernel`) sharpens so much that densities are distorted."""
    name = kernel.upper()
    number = re.search(r"\d{2}", name)
    if name.startswith("FC"):
        return number is not None and int(number.group()) >= 30
    if number:
        return int(number.group()) >= 50
    return name in {"LUNG", "BONE", "BONEPLUS", "EDGE", "ULTRA", "SHARP", "D", "E", "L", "YC", "YD"}
