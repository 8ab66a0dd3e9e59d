"""NRRD and MetaImage: spaces, units, intensities and data files are applied or refused, never passed over."""

from __future__ import annotations

import bz2
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.cohort.discovery import discover
from ctplatform.imaging.itk_file import read_itk_header
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import array, chest, code_of

RAW = array(chest()).astype("<i2").tobytes()
SIGNS = {
    "left-posterior-superior": (1, 1),
    "LPS": (1, 1),
    "right-anterior-superior": (-1, -1),
    "RAS": (-1, -1),
    "LAS": (1, -1),
}


def nrrd(
    space: str = "space: left-posterior-superior\n",
    *,
    third: str = "(0,0,11)",
    scale: float = 1.0,
    signs: tuple[int, int] = (1, 1),
    encoding: str = "raw",
    more: str = "",
) -> bytes:
    if scale != 1:
        third = f"(0,0,{11 * scale})"
    x, y, z = -121.5 * scale * signs[0], -110.25 * scale * signs[1], -300.5 * scale
    return (
        f"NRRD0004\ntype: short\ndimension: 3\n{space}sizes: 30 26 20\n"
        f"space directions: ({8 * scale * signs[0]},0,0) (0,{9.5 * scale * signs[1]},0) {third}\n"
        f"kinds: domain domain domain\nendian: little\nencoding: {encoding}\nspace origin: ({x},{y},{z})\n{more}\n"
    ).encode()


def metaimage(more: str = "", *, matrix: str = "1 0 0 0 1 0 0 0 1", data: str = "LOCAL") -> bytes:
    return (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = {matrix}\nOffset = -121.5 -110.25 -300.5\n{more}ElementSpacing = 8 9.5 11\n"
        f"DimSize = 30 26 20\nElementType = MET_SHORT\nElementDataFile = {data}\n"
    ).encode()


def check(path: Path) -> tuple[str, ...]:
    """The chest of `scans`, voxel for voxel and in its place; returns the notes."""
    volume = read_volume(path)
    assert np.array_equal(array(volume.image), array(chest()))
    assert volume.image.GetSpacing() == pytest.approx(chest().GetSpacing())
    assert volume.image.GetOrigin() == pytest.approx(chest().GetOrigin())
    return volume.notes


class TestSpace:
    @pytest.mark.parametrize("space", SIGNS)
    def test_named_spaces_become_lps(self, tmp_path: Path, space: str) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd(f"space: {space}\n", signs=SIGNS[space]) + RAW)
        assert check(tmp_path / "a.nrrd") == ()

    @pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed", "3DLH", "RPS"])
    def test_spaces_without_left_and_right(self, tmp_path: Path, space: str) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd(f"space: {space}\n") + RAW)
        assert code_of(tmp_path / "a.nrrd") == "bad-space"

    def test_no_space_is_noted(self, tmp_path: Path) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd("space dimension: 3\n") + RAW)
        assert any("no anatomical space" in note for note in check(tmp_path / "a.nrrd"))


class TestUnits:
    @pytest.mark.parametrize(
        ("unit", "scale"), [("cm", 0.1), ("m", 0.001), ("um", 1000.0), ("mm", 1.0), ("", 1.0)]
    )
    def test_lengths_of_a_nrrd_become_mm(self, tmp_path: Path, unit: str, scale: float) -> None:
        text = "space units: " + " ".join([f'"{unit}"'] * 3) + "\n"
        (tmp_path / "a.nrrd").write_bytes(nrrd(scale=scale, more=text) + RAW)
        assert len(check(tmp_path / "a.nrrd")) == (scale != 1.0)

    @pytest.mark.parametrize("text", ['"furlong" "furlong" "furlong"', '"mm" "mm" "cm"'])
    def test_unknown_and_mixed_units(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd(more=f"space units: {text}\n") + RAW)
        assert code_of(tmp_path / "a.nrrd") == "bad-units"

    def test_distance_units_of_a_metaimage(self, tmp_path: Path) -> None:
        text = metaimage("DistanceUnits = cm\n").replace(b"8 9.5 11", b"0.8 0.95 1.1")
        text = text.replace(b"-121.5 -110.25 -300.5", b"-12.15 -11.025 -30.05")
        (tmp_path / "a.mha").write_bytes(text + RAW)
        assert any("units of 10 mm" in note for note in check(tmp_path / "a.mha"))


class TestGrid:
    @pytest.mark.parametrize("third", ["(0,4.0036,11)", "(-2,0,11)"])
    def test_sheared_nrrd(self, tmp_path: Path, third: str) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd(third=third) + RAW)
        assert code_of(tmp_path / "a.nrrd") == "bad-affine"

    def test_sheared_metaimage(self, tmp_path: Path) -> None:
        (tmp_path / "a.mha").write_bytes(metaimage(matrix="1 0 0 0 1 0 0 0.342 0.9397") + RAW)
        assert code_of(tmp_path / "a.mha") == "bad-affine"

    def test_cosines_of_another_length_say_nothing_of_the_voxel_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "a.mha").write_bytes(metaimage(matrix="2 0 0 0 2 0 0 0 2") + RAW)
        assert code_of(tmp_path / "a.mha") == "bad-affine"

    def test_rounded_cosines_become_unit_vectors(self, tmp_path: Path) -> None:
        (tmp_path / "a.mha").write_bytes(metaimage(matrix="0.999 0 0 0 0.999 0 0 0 1") + RAW)
        check(tmp_path / "a.mha")
        direction = np.reshape(read_volume(tmp_path / "a.mha").image.GetDirection(), (3, 3))
        np.testing.assert_allclose(np.linalg.norm(direction, axis=0), 1, atol=1e-9)

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.mha", metaimage().replace(b"ElementSpacing = 8 9.5 11\n", b"")),
            ("a.nrrd", re.sub(rb"space.*\n", b"", nrrd())),
            ("a.nrrd", re.sub(rb"space.*\n", b"", nrrd(more="spacings: NaN NaN NaN\n"))),
        ],
    )
    def test_no_voxel_sizes(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data + RAW)
        assert code_of(tmp_path / name) == "bad-spacing"

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.mha", re.sub(rb"Offset.*\n", b"", metaimage())),
            ("a.nrrd", re.sub(rb"space origin.*\n", b"", nrrd())),
            ("a.nrrd", re.sub(rb"space origin.*\n", b"space origin: none\n", nrrd())),
        ],
    )
    def test_no_origin_is_noted(self, tmp_path: Path, name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data + RAW)
        volume = read_volume(tmp_path / name)
        assert any("gives no origin" in note for note in volume.notes)
        assert volume.image.GetOrigin() == (0, 0, 0)

    @pytest.mark.parametrize(
        "more",
        [
            "Rotation = -1 0 0 0 -1 0 0 0 1\n",
            "Position = 0 0 0\n",
            "ElementByteOrderMSB = True\n",
        ],
    )
    def test_fields_that_contradict_each_other(self, tmp_path: Path, more: str) -> None:
        (tmp_path / "a.mha").write_bytes(metaimage(more) + RAW)
        assert code_of(tmp_path / "a.mha") == "bad-header"

    def test_fields_that_repeat_each_other(self, tmp_path: Path) -> None:
        more = "Orientation = 1.0 0 0 0 1 0 0 0 1\nOrigin = -121.50 -110.25 -300.5\nElementByteOrderMSB = false\n"
        (tmp_path / "a.mha").write_bytes(metaimage(more) + RAW)
        assert check(tmp_path / "a.mha") == ()

    def test_an_orientation_beside_the_matrix(self, tmp_path: Path) -> None:
        """RAI is LPS order: the letters say where the axes come from."""
        for letters, noted in (("RAI", False), ("???", False), ("LPS", True)):
            (tmp_path / "a.mha").write_bytes(metaimage(f"AnatomicalOrientation = {letters}\n") + RAW)
            assert any("matrix was used" in note for note in check(tmp_path / "a.mha")) == noted

    @pytest.mark.parametrize("code", ["LPS", "RAS", "LAS", "RPI", "SLP", "ASL", "PIR"])
    def test_the_orientation_that_simpleitk_writes_agrees_with_its_matrix(
        self, tmp_path: Path, code: str
    ) -> None:
        sitk.WriteImage(sitk.DICOMOrient(chest(), code), str(tmp_path / "a.mha"))
        assert check(tmp_path / "a.mha") == ()

    def test_an_orientation_without_a_matrix(self, tmp_path: Path) -> None:
        for letters in ("RAI", "LPS"):
            data = metaimage(f"AnatomicalOrientation = {letters}\n")
            (tmp_path / f"{letters}.mha").write_bytes(re.sub(rb"TransformMatrix.*\n", b"", data) + RAW)
        assert check(tmp_path / "RAI.mha") == ()
        assert code_of(tmp_path / "LPS.mha") == "bad-space"


class TestIntensities:
    def test_linear_function_of_a_metaimage(self, tmp_path: Path) -> None:
        stored = ((array(chest()).astype(int) + 1024) * 2).astype("<i2").tobytes()
        text = "ElementToIntensityFunctionSlope = 0.5\nElementToIntensityFunctionOffset = -1024\n"
        (tmp_path / "a.mha").write_bytes(metaimage(text) + stored)
        check(tmp_path / "a.mha")

    def test_a_function_that_is_no_number(self, tmp_path: Path) -> None:
        (tmp_path / "a.mha").write_bytes(metaimage("ElementToIntensityFunctionSlope = x\n") + RAW)
        assert code_of(tmp_path / "a.mha") == "bad-header"


class TestData:
    def test_encodings(self, tmp_path: Path) -> None:
        (tmp_path / "a.nrrd").write_bytes(nrrd(encoding="gzip") + gzip.compress(RAW))
        check(tmp_path / "a.nrrd")
        (tmp_path / "b.nrrd").write_bytes(nrrd(encoding="bzip2") + bz2.compress(RAW))
        check(tmp_path / "b.nrrd")
        (tmp_path / "c.nrrd").write_bytes(nrrd(encoding="zrl") + RAW)
        assert code_of(tmp_path / "c.nrrd") == "unreadable"

    @pytest.mark.parametrize(
        ("name", "data"),
        [
            ("a.mhd", "CT 1.raw"),
            ("a.mhd", "s%03d.raw 1 20 1"),
            ("a.mhd", "LIST\n" + "\n".join(f"s{k:03d}.raw" for k in range(1, 21))),
            ("a.mha", "CT 1.raw"),
            ("a.MHD", "CT 1.raw"),
        ],
    )
    def test_separate_data_files_of_a_metaimage(self, tmp_path: Path, name: str, data: str) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        if data == "CT 1.raw":
            (folder / data).write_bytes(RAW)
        else:
            for k, plane in enumerate(array(chest()), 1):
                (folder / f"s{k:03d}.raw").write_bytes(plane.astype("<i2").tobytes())
        (folder / name).write_bytes(metaimage(data=data))
        check(folder / name)
        assert [Path(path).name for path in discover(folder).table["path"]] == [name]

    @pytest.mark.parametrize("field", ["data file", "datafile"])
    @pytest.mark.parametrize("name", ["a.nhdr", "a.nrrd", "a.NHDR"])
    def test_separate_data_file_of_a_nrrd(self, tmp_path: Path, name: str, field: str) -> None:
        (tmp_path / "CT 1.raw").write_bytes(RAW)
        (tmp_path / name).write_bytes(nrrd(more=f"{field}: CT 1.raw\n"))
        check(tmp_path / name)
        assert read_itk_header(tmp_path / name).data_file == "CT 1.raw"

    def test_data_file_that_is_missing_or_too_short(self, tmp_path: Path) -> None:
        (tmp_path / "a.mhd").write_bytes(metaimage(data="a.raw"))
        assert code_of(tmp_path / "a.mhd") == "truncated"
        (tmp_path / "a.raw").write_bytes(RAW[:-100])
        assert code_of(tmp_path / "a.mhd") == "truncated"
