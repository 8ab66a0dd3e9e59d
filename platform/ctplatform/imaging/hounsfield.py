"""Hounsfield units: a check that values are HU, and their conversion to int16 of at least -1024."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctplatform.errors import ScanError

AIR_HU = -1000
"""Air, by the definition of the scale."""

PADDING_HU = -1024
"""The lowest value of a volume, and the value of everything outside a scan's field of view."""

MAX_NON_FINITE = 0.05

_BELOW_AIR = -1100  # noise in air reaches about here
_DARK = -930  # lungs are lighter, but for emphysema
_AIR_RANGE = (-1150, -900)
_TISSUE_RANGE = (-200, 300)
_REMEDY = "Export it in HU (stored value x rescale slope + intercept, once); masks and labels are no scans"


def to_hu(values_ZYX: NDArray[Any], hu_ZYX: NDArray[np.int16]) -> tuple[float, list[str]]:
    """Round, clamp to at least `PADDING_HU` and convert to int16, slice by slice.

    Args:
        values_ZYX: as the file has them.
        hu_ZYX: receives the result; may be the same array, if that is int16.

    Returns:
        Air in HU as `check_hu` finds it, before values are clamped; and notes on padding and non-finite voxels.

    Raises:
        ScanError: not-finite, not-hu.
    """
    notes = []
    is_float = values_ZYX.dtype.kind == "f"
    non_finite = sum(int((~np.isfinite(slice_YX)).sum()) for slice_YX in values_ZYX) if is_float else 0
    share = non_finite / values_ZYX.size
    if share > MAX_NON_FINITE:
        raise ScanError(
            f"{share:.1%} of the voxels are not finite numbers (NaN or infinite)",
            f"Export the scan again; up to {MAX_NON_FINITE:.0%} are taken as padding",
            code="not-finite",
        )
    if non_finite:
        notes.append(f"{non_finite} voxels ({share:.2%}) were not finite; set to {PADDING_HU} HU")
    air_hu = check_hu(values_ZYX)
    low = 0
    for slice_YX, out_YX in zip(values_ZYX, hu_ZYX):
        if is_float:
            slice_YX = np.rint(
                np.where(np.isfinite(slice_YX), slice_YX, PADDING_HU) if non_finite else slice_YX
            )
        is_low = bool(slice_YX.min() < PADDING_HU)
        if is_low:
            low += int(np.count_nonzero(slice_YX < PADDING_HU))
        if slice_YX.dtype == np.int16:
            if is_low or values_ZYX is not hu_ZYX:
                np.maximum(slice_YX, PADDING_HU, out=out_YX)
        else:
            out_YX[:] = np.clip(slice_YX, PADDING_HU, np.iinfo(np.int16).max)
    if low > 0.001 * values_ZYX.size:
        notes.append(
            f"padding: {low / values_ZYX.size:.1%} of the voxels lay below {PADDING_HU} HU; set to it"
        )
    return air_hu, notes


def check_hu(values_ZYX: NDArray[Any]) -> float:
    """Check on a sample of voxels that values are HU; constant padding is left out of the sample.

    The darkest percent must lie near -1000 (air) and the median above -500 near 0 (tissue).

    Returns:
        Room air, HU: the lowest peak of the voxels below -930 that has at least a quarter of the highest one, since
        lungs with emphysema may have one too; NaN where these voxels are less than 0.5%.

    Raises:
        ScanError: not-hu, with the measured values.
    """
    step = tuple(max(1, n // 96) for n in values_ZYX.shape)
    sample = values_ZYX[:: step[0], :: step[1], :: step[2]].astype(np.float32).ravel()
    sample = sample[np.isfinite(sample)]
    below = sample[sample < _BELOW_AIR]
    padding = _constants(below, sample.size)
    scattered = int((~np.isin(below, padding)).sum())
    measured = sample[~np.isin(sample, padding)]
    if measured.size < 0.02 * sample.size:
        raise _not_hu(f"nearly all voxels have the value {np.median(sample):g}")
    if scattered > 0.05 * sample.size:
        raise _not_hu(
            f"{scattered / sample.size:.0%} of the voxels lie below {_BELOW_AIR}, down to {sample.min():.0f}, and are "
            f"no constant padding, where air is near {AIR_HU}"
        )
    air = float(np.percentile(measured, 1))
    if not _AIR_RANGE[0] <= air <= _AIR_RANGE[1]:
        raise _not_hu(f"the darkest 1% of the voxels lie at {air:.0f}, where air near {AIR_HU} is expected")
    tissue = measured[measured > -500]
    if tissue.size > 0.01 * sample.size:
        middle = float(np.median(tissue))
        if not _TISSUE_RANGE[0] <= middle <= _TISSUE_RANGE[1]:
            raise _not_hu(f"tissue (the median above -500) lies at {middle:.0f}, where 0 to 100 is expected")
    dark = measured[measured < _DARK]
    room = dark[~np.isin(dark, _constants(dark[dark <= PADDING_HU], sample.size))]
    room = room if room.size > 0.005 * sample.size else dark  # air without noise is a constant too
    return _lowest_peak(room) if room.size > 0.005 * sample.size else float("nan")


def _lowest_peak(values: NDArray[np.float32]) -> float:
    """Median around the lowest peak of a histogram of 10 HU a bin, smoothed over three, HU."""
    counts, edges = np.histogram(values, np.arange(-1250.0, _DARK + 40.0, 10.0))
    smooth = np.convolve(counts, np.ones(3), "same")
    rises = np.concatenate([[True], smooth[1:] >= smooth[:-1]])
    falls = np.concatenate([smooth[:-1] > smooth[1:], [True]])
    at = int(np.argmax(rises & falls & (smooth >= 0.25 * smooth.max())))
    return float(np.median(values[np.abs(values - (edges[at] + 5)) <= 25]))


def _constants(values: NDArray[np.float32], voxels: int) -> NDArray[np.float32]:
    """Values of padding: more than 0.2% of all voxels, and more than all the others within 15 HU, unlike noise."""
    found, counts = np.unique(values, return_counts=True)
    total = np.concatenate([[0], np.cumsum(counts)])
    near = (
        total[np.searchsorted(found, found + 15, "right")] - total[np.searchsorted(found, found - 15, "left")]
    )
    peaks: NDArray[np.float32] = found[(counts > 0.002 * voxels) & (2 * counts > near)]
    return peaks


def _not_hu(measured: str) -> ScanError:
    return ScanError(f"the values are not HU: {measured}", _REMEDY, code="not-hu")
