"""A lung mask that comes with the scan: every format gives the same mask, and one that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.lungs import LEFT, RIGHT
from ctplatform.lungs.given_mask import read_lung_mask
from ctplatform.lungs.segmenter import lung_mask
from tests.ctplatform.imaging.labelled import rings_of, write_segmentation, write_structures
from tests.ctplatform.lungs.masks import dice, edited

Subject = tuple[sitk.Image, sitk.Image]


def coarse(lungs: sitk.Image, made: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.Resample(lungs, made, sitk.Transform(), sitk.sitkNearestNeighbor))


def write(path: Path, lungs: sitk.Image, values: dict[int, int]) -> str:
    array = sitk.GetArrayFromImage(lungs)
    out = np.zeros_like(array)
    for label, value in values.items():
        out[array == label] = value
    sitk.WriteImage(edited(lungs, out), str(path))
    return str(path)


@pytest.mark.parametrize("values", [(50, 100), (1, 2), (2, 1), (7, 3)])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_values_are_those_of_the_atlas_or_tell_by_place(
    subject: Subject, tmp_path: Path, values: tuple[int, int], suffix: str
) -> None:
    image, lungs = subject
    path = write(tmp_path / f"m{suffix}", lungs, {RIGHT: values[0], LEFT: values[1]})
    mask = lung_mask(image, LungsConfig.model_validate({}), given=path)
    labels_ZYX = sitk.GetArrayFromImage(mask.labels)
    for side in (RIGHT, LEFT):
        assert dice(labels_ZYX == side, coarse(lungs, mask.labels) == side) > 0.97
    assert mask.notes == ("the lung mask is a given one",)
    assert mask.measures["volume_l"] == pytest.approx(
        (sitk.GetArrayFromImage(lungs) > 0).sum() * np.prod(lungs.GetSpacing()) / 1e6, rel=0.02
    )


def test_one_label_is_divided(subject: Subject, tmp_path: Path) -> None:
    image, lungs = subject
    path = write(tmp_path / "m.nii.gz", lungs, {RIGHT: 1, LEFT: 1})
    mask = read_lung_mask(path, image, spacing_mm=3.0)
    labels_ZYX = sitk.GetArrayFromImage(mask.labels)
    for side in (RIGHT, LEFT):
        assert dice(labels_ZYX == side, coarse(lungs, mask.labels) == side) > 0.95


def test_dicom_segments_and_contours_by_their_names(subject: Subject, tmp_path: Path) -> None:
    image = sitk.BinShrink(subject[0], (2, 2, 2))
    lungs = sitk.Resample(subject[1], image, sitk.Transform(), sitk.sitkNearestNeighbor)
    array = sitk.GetArrayFromImage(lungs)
    write_dicom_series(image, tmp_path / "ct", header={"PatientID": "p"})
    segments = {"Left Lung": array == LEFT, "heart": array == 0, "Right Lung": array == RIGHT}
    seg = write_segmentation(tmp_path / "seg.dcm", tmp_path / "ct", segments)
    small = sitk.BinShrink(sitk.Cast(lungs == RIGHT, sitk.sitkFloat32), (2, 2, 2)) >= 0.5
    other = sitk.BinShrink(sitk.Cast(lungs == LEFT, sitk.sitkFloat32), (2, 2, 2)) >= 0.5
    contours = write_structures(
        tmp_path / "rt.dcm", {"BODY": [], "Lung_R": rings_of(small), "Lung_L": rings_of(other)}
    )
    for path, least in ((seg, 0.95), (contours, 0.85)):
        mask = read_lung_mask(str(path), image, spacing_mm=3.0)
        labels_ZYX = sitk.GetArrayFromImage(mask.labels)
        for side in (RIGHT, LEFT):
            assert dice(labels_ZYX == side, coarse(lungs, mask.labels) == side) > least


def test_what_does_not_fit_is_refused(subject: Subject, tmp_path: Path) -> None:
    image, lungs = subject
    array = sitk.GetArrayFromImage(lungs)
    moved = sitk.Image(lungs)
    moved.SetOrigin([o + 150 for o in lungs.GetOrigin()])
    beside = edited(lungs, np.roll(array, 40, axis=1))
    swapped = edited(
        lungs, np.where(array == RIGHT, LEFT, np.where(array == LEFT, RIGHT, 0)).astype(np.uint8)
    )
    many = edited(
        lungs, np.where(array > 0, array + np.arange(array.shape[0])[:, None, None], 0).astype(np.uint8)
    )
    empty = edited(lungs, np.zeros_like(array))
    cases = {
        "inside the scan": moved,
        "aerated": beside,
        "to the right of the left one": swapped,
        "labels": many,
        "no label": empty,
    }
    for words, mask in cases.items():
        sitk.WriteImage(mask, str(tmp_path / "m.nii.gz"))
        with pytest.raises(ScanError, match=words) as caught:
            read_lung_mask(str(tmp_path / "m.nii.gz"), image, spacing_mm=3.0)
        assert caught.value.code == "lung-mask"
    with pytest.raises(ScanError) as caught:
        read_lung_mask(str(tmp_path / "none.nii.gz"), image, spacing_mm=3.0)
    assert caught.value.code == "missing-label-map"
