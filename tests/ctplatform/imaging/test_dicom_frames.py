"""Enhanced CT and Legacy Converted Enhanced CT: frames in order of space, each with its rescale; several volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

from ctplatform.cohort.discovery import discover
from ctplatform.imaging.dicom_frames import FrameReader
from ctplatform.imaging.dicom_headers import index_files
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import content_hash, read_volume
from tests.ctplatform.imaging.multiframe import item, rescaled, write_enhanced
from tests.ctplatform.scans import chest, code_of, rotated

SLICES = 20


def scattered(seed: int = 0) -> list[int]:
    return list(np.random.default_rng(seed).permutation(SLICES))


class TestEnhanced:
    @pytest.mark.parametrize("degrees", [0.0, 12.0])
    def test_the_volume_of_the_single_images(self, tmp_path: Path, degrees: float) -> None:
        uid = write_dicom_series(rotated(chest(), degrees=degrees), tmp_path / "single")
        rescaled(tmp_path / "single")
        write_enhanced(tmp_path / "single", tmp_path / "e" / "1.dcm", order=scattered())
        single, enhanced = read_volume(tmp_path / "single"), read_volume(tmp_path / "e")
        assert content_hash(enhanced) == content_hash(single)
        assert enhanced.notes == ()
        assert enhanced.source["kernel"] == "B30f"
        assert enhanced.source["slice_thickness_mm"] == 11.0
        found = discover(tmp_path / "e").table
        assert list(found["series_uid"]) == [uid]

    def test_compressed_frames(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "single")
        file = write_enhanced(tmp_path / "single", tmp_path / "e" / "1.dcm", order=scattered(1))
        data = pydicom.dcmread(file)
        data.compress(RLELossless)
        data.save_as(file)
        assert content_hash(read_volume(file)) == content_hash(read_volume(tmp_path / "single"))

    def test_a_series_of_several_files(self, tmp_path: Path) -> None:
        """Concatenations and one file a stack: frames of all files are one volume."""
        write_dicom_series(chest(), tmp_path / "single")
        for name, frames in (("a", range(8)), ("b", range(8, SLICES))):
            file = write_enhanced(tmp_path / "single", tmp_path / "e" / f"{name}.dcm", order=frames)
            data = pydicom.dcmread(file)
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.save_as(file)
        assert content_hash(read_volume(tmp_path / "e")) == content_hash(read_volume(tmp_path / "single"))

    def test_phases_and_overlapping_stacks_are_recognised(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "single")

        def phase(k: int, groups: Dataset) -> None:
            groups.CardiacSynchronizationSequence = [
                item(NominalPercentageOfCardiacPhase=40.0 + 30 * (k % 2))
            ]

        def time(k: int, groups: Dataset) -> None:
            groups.FrameContentSequence[0].TemporalPositionIndex = 1 + k % 2

        def stack(k: int, groups: Dataset) -> None:
            groups.FrameContentSequence[0].StackID = str(1 + k // SLICES)

        twice = [k for k in range(SLICES) for _ in range(2)]
        for name, per_frame in (("phase", phase), ("time", time)):
            file = write_enhanced(
                tmp_path / "single", tmp_path / f"in-{name}" / "1.dcm", order=twice, per_frame=per_frame
            )
            assert code_of(file) == "several-acquisitions"
        stacks = [*range(SLICES), *range(SLICES)]
        file = write_enhanced(tmp_path / "single", tmp_path / "in-s" / "1.dcm", order=stacks, per_frame=stack)
        assert code_of(file) == "several-acquisitions"
        interleaved = write_enhanced(tmp_path / "single", tmp_path / "in-i" / "1.dcm", per_frame=time)
        assert code_of(interleaved) == "several-acquisitions"

        def contiguous(k: int, groups: Dataset) -> None:
            groups.FrameContentSequence[0].StackID = str(1 + k // 10)

        file = write_enhanced(tmp_path / "single", tmp_path / "c" / "1.dcm", per_frame=contiguous)
        assert content_hash(read_volume(file)) == content_hash(read_volume(tmp_path / "single"))

    def test_what_a_frame_lacks_is_said(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "single")

        def no_position(k: int, groups: Dataset) -> None:
            if k == 4:
                del groups.PlanePositionSequence

        def no_rescale(k: int, groups: Dataset) -> None:
            if k == 4:
                del groups.PixelValueTransformationSequence

        def iodine(k: int, groups: Dataset) -> None:
            groups.PixelValueTransformationSequence[0].RescaleType = "MGML"

        cases = {"no-geometry": no_position, "mixed-rescale": no_rescale, "not-hu": iodine}
        for code, per_frame in cases.items():
            file = write_enhanced(tmp_path / "single", tmp_path / f"in-{code}" / "1.dcm", per_frame=per_frame)
            assert code_of(file) == code
        file = write_enhanced(
            tmp_path / "single", tmp_path / "in-gap" / "1.dcm", order=[*range(9), *range(10, 20)]
        )
        assert code_of(file) == "missing-slice"
        file = write_enhanced(tmp_path / "single", tmp_path / "in-short" / "1.dcm")
        data = pydicom.dcmread(file)
        data.PixelData = data.PixelData[: len(data.PixelData) // 2]
        data.save_as(file)
        assert code_of(file) == "truncated"


def test_legacy_converted_images(tmp_path: Path) -> None:
    """Written by highdicom: what no standard group holds is in the unassigned converted attributes."""
    legacy = pytest.importorskip("highdicom.legacy")
    write_dicom_series(chest(), tmp_path / "single", header={"PatientID": "P-1", "ContentTime": "120000"})
    rescaled(tmp_path / "single")
    images = [pydicom.dcmread(file) for file in sorted(tmp_path.joinpath("single").iterdir())]
    for image in images:
        image.StudyDate, image.StudyTime, image.PatientBirthDate, image.PatientSex = "20200101", "12", "", "O"
        image.ContentDate = "20200101"
    uid = generate_uid()
    converted = legacy.LegacyConvertedEnhancedCTImage(
        [images[k] for k in scattered(2)], uid, 2, generate_uid(), 1
    )
    (tmp_path / "legacy").mkdir()
    converted.save_as(tmp_path / "legacy" / "1.dcm")
    assert content_hash(read_volume(tmp_path / "legacy")) == content_hash(read_volume(tmp_path / "single"))


def test_single_frames_are_read_from_one_dataset(tmp_path: Path) -> None:
    write_dicom_series(chest(), tmp_path / "single")
    file = write_enhanced(tmp_path / "single", tmp_path / "e" / "1.dcm")
    (series,) = index_files([file])
    reader = FrameReader()
    frames = [reader.stored(s.file, s.frame) for s in series.slices]
    assert np.array_equal(np.stack(frames), pydicom.dcmread(file).pixel_array)
    assert len({s.sop_uid for s in series.slices}) == SLICES
