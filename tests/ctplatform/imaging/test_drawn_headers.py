"""Whatever header is drawn: the right HU in the right place, or one ScanError, and never another exception."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ctplatform.imaging import odd_dicom, odd_files, odd_nifti
from tests.ctplatform.imaging.drawn import Drawn, check_broken, check_right, headers
from tests.ctplatform.imaging.oddities import Kind, Odd, check_odd

KINDS = [*odd_dicom.KINDS, *odd_nifti.KINDS, *odd_files.KINDS]
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@QUICK
@given(headers(broken=False))
def test_a_right_header_gives_the_right_voxels(drawn: Drawn) -> None:
    check_right(drawn)


@QUICK
@given(headers(broken=True))
def test_a_broken_header_is_one_scan_error_at_most(drawn: Drawn) -> None:
    check_broken(drawn)


@QUICK
@given(
    st.builds(Odd, grid=headers(broken=False), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**31 - 1))
)
def test_an_odd_header_gives_the_right_voxels_or_a_scan_error(odd: Odd) -> None:
    check_odd(odd)


GRID = Drawn(
    spacing=(3.0, 2.5, 4.0), origin=(-80.5, 12.25, 300.0), turn=(4.0, -7.0, 11.0), flip=(False, True, False),
    order=(0, 1, 2), form="", slope=1.0, intercept=-1024, break_at=None, junk=0,
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_of_oddity(kind: Kind) -> None:
    check_odd(Odd(GRID, kind, seed=7))
