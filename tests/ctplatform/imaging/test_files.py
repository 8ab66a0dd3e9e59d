"""Formats by suffix, local copies of URIs, and ITK's side effects undone."""

from __future__ import annotations

import locale
from pathlib import Path

import pytest
import SimpleITK as sitk

from ctplatform.errors import ScanError
from ctplatform.imaging.files import VOLUME_SUFFIXES, local_copy, quiet_itk, volume_suffix
from tests.ctplatform.scans import chest


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_suffixes_in_any_case(suffix: str) -> None:
    assert volume_suffix(Path(f"a.b{suffix}")) == suffix
    assert volume_suffix(Path(f"A{suffix.upper()}")) == suffix


@pytest.mark.parametrize("name", ["a", "a.gz", "a.dcm", "a.nii.bz2", "nii", "a.nii/b"])
def test_other_files_have_none(name: str) -> None:
    assert volume_suffix(Path(name)) == ""


def test_a_local_path_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.nii").write_bytes(b"x")
    with local_copy(str(tmp_path / "a.nii")) as path:
        assert path == tmp_path / "a.nii"
    monkeypatch.setenv("HOME", str(tmp_path))
    with local_copy("~/a.nii") as path:
        assert path == tmp_path / "a.nii"


def test_a_uri_is_copied_for_the_time_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").write_bytes(b"1")
    (tmp_path / "Jane.NII.GZ").write_bytes(b"2")
    with local_copy((tmp_path / "Jane.NII.GZ").as_uri()) as path:
        assert path.read_bytes() == b"2"
        assert path.name == "scan.nii.gz", "the name of the source may name a patient"
    assert not path.exists()
    with local_copy((tmp_path / "folder").as_uri()) as path:
        assert [(p.name, p.read_bytes()) for p in path.iterdir()] == [("one", b"1")]
    assert not path.exists()
    with local_copy((tmp_path / "none.nii").as_uri()) as path:
        assert not path.exists()


@pytest.mark.parametrize("suffix", ["nhdr", "mhd"])
def test_headers_with_a_separate_data_file_are_refused_by_uri(suffix: str) -> None:
    with pytest.raises(ScanError) as caught, local_copy(f"s3://bucket/a.{suffix}?endpoint_override=x"):
        pass
    assert caught.value.code == "unknown-format"


def test_itk_is_silent_and_the_locale_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    before = locale.setlocale(locale.LC_ALL)
    other = "C" if before != "C" else "C.UTF-8"
    sitk.WriteImage(chest(), str(tmp_path / "a.nrrd"))
    try:
        with quiet_itk():
            assert not sitk.ProcessObject.GetGlobalWarningDisplay()
            sitk.ReadImage(str(tmp_path / "a.nrrd"))
            locale.setlocale(locale.LC_ALL, other)
        assert locale.setlocale(locale.LC_ALL) == before
    finally:
        locale.setlocale(locale.LC_ALL, before)
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    assert "nrrd" not in "".join(capfd.readouterr())


def test_itk_and_locale_are_restored_after_an_error() -> None:
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    with pytest.raises(RuntimeError), quiet_itk():
        raise RuntimeError
    assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
