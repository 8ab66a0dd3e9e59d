"""A small chest-like CT and ways to break it, for the tests of reading and discovery."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.volume import read_volume

REAL_CT = Path(os.environ.get("DRASCLR_REAL_CT", Path(__file__).parents[2].parent / "shared" / "ct"))
needs_real_ct = pytest.mark.skipif(not REAL_CT.is_dir(), reason=f"no real CTs at {REAL_CT} (DRASCLR_REAL_CT)")


def chest(
    *, size_XYZ: tuple[int, int, int] = (30, 26, 20), seed: int = 0, padding: int | None = None
) -> sitk.Image:
    """Air, an elliptic body, two lungs of unequal size; int16 HU, unequal spacing, no symmetric axis."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in reversed(size_XYZ)), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.8) ** 2 < 1
    right = ((x + 0.42) / 0.3) ** 2 + (y / 0.5) ** 2 + ((z + 0.1) / 0.8) ** 2 < 1
    left = ((x - 0.4) / 0.24) ** 2 + ((y + 0.1) / 0.4) ** 2 + (z / 0.75) ** 2 < 1
    hu = np.select([right | left, body], [-850.0, 40.0], -1000.0)
    hu = np.clip(hu + rng.normal(0, 20, hu.shape), -1024, 3071).round()
    if padding is not None:
        hu[x**2 + y**2 > 1] = padding
    image = sitk.GetImageFromArray(hu.astype(np.int16))
    image.SetSpacing((8.0, 9.5, 11.0))
    image.SetOrigin((-121.5, -110.25, -300.5))
    return image


def abdomen() -> sitk.Image:
    """Below `chest` and longer: the same body without lungs, with gas in the bowel and foam under the back."""
    image = chest(size_XYZ=(30, 26, 40), seed=5)
    hu = array(image)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in hu.shape), indexing="ij")
    body = (x / 0.9) ** 2 + (y / 0.8) ** 2 < 1
    hu[body & (hu < -700)] = 40
    hu[(x - 0.3) ** 2 + (y + 0.3) ** 2 + (z / 0.3) ** 2 < 0.05] = -980
    hu[:, -2:, 4:-4] = -900
    below = with_array(image, hu)
    below.SetOrigin((-121.5, -110.25, -300.5 - 11.0 * 38))
    return below


def with_array(image: sitk.Image, array_ZYX: np.ndarray) -> sitk.Image:
    """Another content on the same grid."""
    result = sitk.GetImageFromArray(array_ZYX)
    result.CopyInformation(image)
    return result


def rotated(image: sitk.Image, *, degrees: float) -> sitk.Image:
    """The same voxels with axes turned about z and x: an oblique direction."""
    turn = sitk.Euler3DTransform((0, 0, 0), np.radians(degrees / 2), 0.0, np.radians(degrees))
    result = sitk.Image(image)
    result.SetDirection(turn.GetMatrix())
    return result


def code_of(path: str | Path, **options: str) -> str:
    with pytest.raises(ScanError) as caught:
        read_volume(path, **options)
    assert Path(path).parent.name not in str(caught.value), "an error must not name the path"
    return caught.value.code


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def edit(folder: Path, index: int | slice = slice(None), **header: object) -> None:
    """Change header fields of some files of a series; None removes one."""
    files = sorted(folder.iterdir())[index]
    for file in files if isinstance(files, list) else [files]:
        data = pydicom.dcmread(file)
        for keyword, value in header.items():
            if value is None:
                del data[keyword]
            else:
                setattr(data, keyword, value)
        data.save_as(file)
