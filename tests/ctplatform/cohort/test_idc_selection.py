"""Which series of a small index become scans, and the reasons against the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctplatform.errors import CohortError
from tests.ctplatform.cohort.idc_rows import chosen, series, text


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"analysis_result_id": "nlst_x"}, "result of an analysis, not an acquisition"),
        ({"sop_class_name": "Secondary Capture Image Storage"}, "not of the class CT Image Storage"),
        ({"SeriesDescription": text("T20s", kind="OPL")}, "localizer"),
        ({"SeriesDescription": "CORONAL"}, "not axial"),
        ({"instanceCount": 9}, "fewer than 10 images"),
        ({"BodyPartExamined": "KIDNEY"}, "not of the chest"),
        ({"SeriesDescription": text("B30f", kind="DPA")}, "derived than another series of the study"),
        ({"instanceCount": 100}, "shorter coverage than another series of the study"),
        (
            {"SeriesDescription": text("B30f", "5"), "instanceCount": 60},
            "thicker slices than another series of the study",
        ),
        ({"SeriesDescription": text("B50f")}, "sharper kernel than another series of the study"),
        ({"instanceCount": 149}, "fewer images than another series of the study"),
        ({}, "later UID than another series of the study"),
    ],
)
def test_why_a_series_is_passed_over(others: dict[str, Any], reason: str, tmp_path: Path) -> None:
    rows = [series(1, "p", "s", text("B30f")), series(2, "p", "s", text("B30f")) | others]
    assert chosen(rows, tmp_path) == ([1], {reason: 1})


def test_each_study_is_chosen_from_by_itself(tmp_path: Path) -> None:
    rows = [
        series(1, "p", "s1", text("B50f")),  # all there is
        series(2, "p", "s2", text("B50f", year=1)),
        series(3, "p", "s2", text("B30f", year=1)),
        series(4, "q", "s3", None),  # of which nothing is known
        series(5, "q", "s3", "Thorax  5.0  B30f", instanceCount=60),
    ]
    assert chosen(rows, tmp_path)[0] == [1, 3, 4]
    assert chosen(rows, tmp_path, every_series=True) == ([1, 2, 3, 4, 5], {})


def test_kernels(tmp_path: Path) -> None:
    rows = [series(1, "p", "s", text("B50f")), series(2, "p", "s", text("B30f")), series(3, "q", "t", None)]
    assert chosen(rows, tmp_path, kernels=("b50F",)) == ([1], {"kernel is not b50F": 2})
    assert chosen(rows, tmp_path, kernels=("sharp",))[0] == [1]
    assert chosen(rows, tmp_path, kernels=("smooth", "B50f"))[0] == [2]


def test_people_are_taken_whole_in_an_order_of_the_seed(tmp_path: Path) -> None:
    rows = [
        series(3 * person + visit, f"{person}", f"{person}.{visit}", text("B30f", year=visit))
        for person in range(40)
        for visit in range(3)
    ]
    seen: set[int] = set()
    for count in (0, 5, 10, 40, 99):
        if count == 0:
            with pytest.raises(CohortError, match="none of the 120"):
                chosen(rows, tmp_path, subjects=0)
            continue
        numbers, passed = chosen(rows, tmp_path, subjects=count)
        assert len(numbers) == 3 * min(count, 40)
        assert seen <= set(numbers), "a larger cohort of the same seed holds the smaller one"
        seen = set(numbers)
        if count < 40:
            assert passed == {f"of subjects beyond the first {count} subjects by seed 0": 120 - 3 * count}
    five = chosen(rows, tmp_path, subjects=5)[0]
    assert chosen(rows, tmp_path, subjects=5)[0] == five
    assert chosen(rows[::-1], tmp_path, subjects=5)[0] == five, "whatever the order of the index"
    assert chosen(rows, tmp_path, subjects=5, seed=1)[0] != five
    # 80 MB a series: three people have 720 MB.
    assert chosen(rows, tmp_path, max_bytes=0.95e9)[0] == chosen(rows, tmp_path, subjects=3)[0]
    assert len(chosen(rows, tmp_path, max_bytes=0.95e9, subjects=2)[0]) == 6
