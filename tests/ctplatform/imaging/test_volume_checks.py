"""The shapes that are volumes."""

from __future__ import annotations

import pytest

from ctplatform.errors import ScanError
from ctplatform.imaging.volume_checks import check_shape, not_scalar, truncated


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_volumes(shape: tuple[int, ...]) -> None:
    assert check_shape(shape) == (5, 6, 7)


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((5, 6), "not-3d"),
        ((5, 6, 1), "not-3d"),
        ((1, 6, 7), "not-3d"),
        ((), "not-3d"),
        ((5, 6, 7, 2), "four-d"),
        ((5, 6, 7, 1, 3), "four-d"),
    ],
)
def test_other_shapes_are_named(shape: tuple[int, ...], code: str) -> None:
    with pytest.raises(ScanError) as caught:
        check_shape(shape)
    assert caught.value.code == code
    assert " x ".join(map(str, shape)) in caught.value.problem


def test_errors_have_a_remedy() -> None:
    for error, code in ((not_scalar(), "not-scalar"), (truncated(), "truncated")):
        assert error.code == code
        assert error.remedy
