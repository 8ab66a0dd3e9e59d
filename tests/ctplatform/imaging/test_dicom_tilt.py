"""Tilted gantries: a scene scanned with inclined slices is the one that upright slices show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_tilt import Shear, upright
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import edit

SHAPE_ZYX = (30, 60, 44)
SPACING = (4.0, 3.0, 5.0)
ORIGIN = np.array([-80.0, -90.0, -70.0])


def scene(points: np.ndarray) -> np.ndarray:
    """HU of a smooth body at points [..., 3] in mm; its centre of mass is at a known place."""
    x, y, z = np.moveaxis(points, -1, 0)
    body = 1 / (1 + np.exp(np.hypot(x / 60, (y - 5) / 50) * 6 - 6))
    lung = np.exp(-(((x - 20) / 25) ** 2 + ((y - 5) / 25) ** 2 + ((z - 8) / 30) ** 2))
    return -1000 + 1040 * body - 850 * lung


def tilted(degrees: float, *, table: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxels [z, y, x], axes and steps of a scan: the table moves along z, or along the tilt."""
    t = math.radians(degrees)
    row, upright_column = np.array([1.0, 0, 0]), np.array([0.0, 1, 0])
    if table:
        column, step = np.array([0, math.cos(t), math.sin(t)]), np.array([0.0, 0, 1])
    else:
        column, step = upright_column, np.array([0, math.tan(t), 1.0])
    k, j, i = (n[..., None] for n in np.meshgrid(*(np.arange(n) for n in SHAPE_ZYX), indexing="ij"))
    points = ORIGIN + i * SPACING[0] * row + j * SPACING[1] * column + k * SPACING[2] * step
    return scene(points), np.stack([row, column]), step


@pytest.mark.parametrize("table", [True, False], ids=["inclined slices", "shifted slices"])
@pytest.mark.parametrize("degrees", [1.0, -8.0, 21.0])
def test_within_one_hu_and_a_tenth_of_a_mm(tmp_path: Path, degrees: float, table: bool) -> None:
    hu_ZYX, axes, step = tilted(degrees, table=table)
    image = sitk.GetImageFromArray(np.rint(hu_ZYX).astype(np.int16))
    image.SetSpacing(SPACING)
    write_dicom_series(image, tmp_path)
    for k in range(SHAPE_ZYX[0]):
        edit(
            tmp_path,
            k,
            ImagePositionPatient=[float(f"{v:.6f}") for v in ORIGIN + k * SPACING[2] * step],
            ImageOrientationPatient=[float(f"{v:.8f}") for v in axes.ravel()],
        )
    volume = read_volume(tmp_path)
    assert sum("gantry tilt" in note for note in volume.notes) == 1
    np.testing.assert_allclose(np.array(volume.image.GetDirection()).reshape(3, 3), np.eye(3), atol=1e-6)
    found_ZYX = sitk.GetArrayFromImage(volume.image)
    grid = np.meshgrid(*(np.arange(n) for n in found_ZYX.shape), indexing="ij")
    points = np.array(volume.image.GetOrigin()) + np.stack(grid[::-1], axis=-1) * volume.image.GetSpacing()
    true_ZYX = scene(points)
    inside = found_ZYX > PADDING_HU
    assert inside.sum() >= 0.93 * hu_ZYX.size
    core = sitk.GetArrayFromImage(
        sitk.BinaryErode(sitk.GetImageFromArray(inside.astype(np.uint8)), (1, 2, 2))
    )
    wrong = np.abs(found_ZYX - true_ZYX)[core > 0]
    assert np.percentile(wrong, 99.5) <= 1.0
    assert wrong.max() <= 3.0, "at the skin"
    slopes = np.stack([g[core > 0] for g in np.gradient(true_ZYX, *volume.image.GetSpacing()[::-1])])
    moved_mm = np.linalg.lstsq(slopes.T, (found_ZYX - true_ZYX)[core > 0], rcond=None)[0]
    assert np.abs(moved_mm).max() < 0.1


def test_no_voxel_is_lost() -> None:
    hu_ZYX, axes, _ = tilted(20.0, table=True)
    shear = Shear(20.0, np.stack([*axes, [0.0, 0, 1]]), SPACING, ORIGIN)
    straight = upright(hu_ZYX.astype(np.float32), shear)
    lean = SPACING[1] * math.sin(math.radians(20)) * (SHAPE_ZYX[1] - 1) / SPACING[2]
    assert straight.hu_ZYX.shape == (SHAPE_ZYX[0] + math.ceil(lean), *SHAPE_ZYX[1:])
    assert straight.hu_ZYX.dtype == np.float32
    assert straight.spacing[1] == pytest.approx(SPACING[1] * math.cos(math.radians(20)))


def test_a_tilt_about_two_axes_is_refused() -> None:
    normal = np.array([-0.3, -0.3, 0.9]) / math.sqrt(0.99)
    row = np.array([1.0, 0, 0]) - normal[0] * normal
    row /= np.linalg.norm(row)
    shear = Shear(25.0, np.stack([row, np.cross(normal, row), [0.0, 0, 1]]), SPACING, ORIGIN)
    assert shear.along_slices
    with pytest.raises(ScanError) as caught:
        shear.leaning()
    assert caught.value.code == "gantry-tilt"
