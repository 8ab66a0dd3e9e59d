"""Paths are removed from any text, and numbers have the decimals that their interval deserves."""

from __future__ import annotations

import pytest

from ctplatform.report import words


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /data/Doe^Jane/ct.nii.gz",
        "see ~/scans/Doe/1",
        "see ../Doe/scan",
        "C:\\hospital\\Doe\\1.dcm is short",
        "\\\\server\\share\\Doe",
        "s3://bucket/Doe/x",
        "file:///Doe",
        "Doe_Jane.nii.gz ends early",
        "the file 'Doe.dcm'",
        "(/mnt/Doe)",
    ],
)
def test_paths_are_removed(text):
    assert "Doe" not in words.without_paths(text)
    assert "[path]" in words.without_paths(text)


@pytest.mark.parametrize(
    "text", ["FEV1/FVC", "31 cm2/slice", "right / left 0.7", "volume 1.2 l, 3/4 inside", "n. 3"]
)
def test_other_words_stay(text):
    assert words.without_paths(text) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0, 0.0, 0.0), "0.00 (0.00 to 0.00)"),
        ((0.0, 0.0, 2e-16), "0.00 (0.00 to 0.00)"),
        ((0.512, 0.3, 0.7), "0.51 (0.30 to 0.70)"),
        ((-0.5123, -0.5131, -0.5102), "\u22120.5123 (\u22120.5131 to \u22120.5102)"),
    ],
)
def test_estimates_have_the_decimals_that_their_interval_deserves(numbers, text):
    assert words.estimate(*numbers) == text


def test_slugs_are_safe_as_ids_and_file_names():
    assert words.slug("FEV1/FVC") == "fev1-fvc"
    assert words.slug("../Zürich\\x") == "z-rich-x"
    assert words.slug("ü") == "x"
