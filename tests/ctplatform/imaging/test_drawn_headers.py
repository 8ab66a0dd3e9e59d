"""Whatever header is drawn: the right HU in the right place, or one ScanError, and never another exception."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings

from ctplatform.errors import ScanError
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.drawn import Drawn, headers

QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def check_right(drawn: Drawn) -> None:
    """A header that is right gives the drawn HU, voxel by voxel, where the image has them."""
    with tempfile.TemporaryDirectory() as folder:
        found = read_volume(drawn.write(Path(folder))).image
    image = drawn.image()
    expected = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(expected))
    corner = [n - 1 for n in expected.GetSize()]
    for index in ((0, 0, 0), corner):
        np.testing.assert_allclose(
            found.TransformIndexToPhysicalPoint(index),
            expected.TransformIndexToPhysicalPoint(index),
            atol=0.02,
        )


def check_broken(drawn: Drawn) -> None:
    """A byte of the header is wrong: a volume, or a ScanError without the path."""
    with tempfile.TemporaryDirectory(prefix="named-") as folder:
        path = drawn.write(Path(folder))
        said = ""
        try:
            read_volume(path)
        except ScanError as error:
            said = str(error)
        assert "named-" not in said


@QUICK
@given(headers(broken=False))
def test_a_right_header_gives_the_right_voxels(drawn: Drawn) -> None:
    check_right(drawn)


@QUICK
@given(headers(broken=True))
def test_a_broken_header_is_one_scan_error_at_most(drawn: Drawn) -> None:
    check_broken(drawn)
