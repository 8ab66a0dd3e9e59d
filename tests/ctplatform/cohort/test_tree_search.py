"""The search of a tree, in one process and with Ray tasks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import SimpleITK as sitk

from ctplatform.cohort import tree_search
from ctplatform.cohort.discovery import discover
from ctplatform.cohort.tree_search import walk_folders
from ctplatform.config.cluster import RayConfig
from ctplatform.imaging.dicom_writer import write_dicom_series
from tests.ctplatform.scans import chest


class TestDiscover:
    def found(self, folder: Path, **options) -> tuple[dict[str, pd.Series], list[str]]:
        result = discover(folder, **options)
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for _, row in result.table.iterrows()}
        return rows, result.passed_over

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "real")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
        (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
        rows, passed = self.found(tmp_path / "tree")
        assert set(rows) == {"link"}
        assert passed == []


def test_ray_tasks_find_the_same_as_one_process(tmp_path: Path, ray_local, monkeypatch) -> None:
    """Nested folders, a folder too large for a task, repeats, rubbish, several studies: same rows, same lines."""
    for k in range(3):
        patient = {"PatientID": f"p{k % 2}", "StudyInstanceUID": f"2.1.{k}"}
        write_dicom_series(chest(seed=k), tmp_path / "nested" / str(k) / "x", patient=patient)
    flat = tmp_path / "flat"
    for k in range(4):
        patient = {"PatientID": f"f{k % 2}", "StudyInstanceUID": f"1.2.{k % 3}"}
        write_dicom_series(chest(seed=10 + k), tmp_path / "part", patient=patient)
        flat.mkdir(exist_ok=True)
        for file in sorted((tmp_path / "part").iterdir()):
            file.rename(flat / f"{file.stem}-{k}.dcm")  # the slices of the series are mixed
    (tmp_path / "part").rmdir()
    (flat / "notes.txt").write_text("x")
    sitk.WriteImage(chest(), str(tmp_path / "a.nii.gz"))
    sitk.WriteImage(chest(seed=77), str(flat / "b.nii.gz"))
    (tmp_path / "nested" / "1" / "x" / "0007.dcm").unlink()
    key = b"k" * 32
    monkeypatch.setattr(tree_search, "CHUNK", 30)
    alone = tree_search.search_tree(tmp_path, key=key, every_series=False)
    tasks = tree_search.search_tree(tmp_path, key=key, every_series=False, ray_config=RayConfig(), small=10)
    assert len(alone[0]) == 6, (
        "two of three nested ones, three studies in the flat folder, the file beside them"
    )
    assert any("the same scan as nested/0/x" in line for line in alone[1])
    assert any("1 slice(s) are missing" in line for line in alone[1])
    assert tasks == alone


def test_a_small_tree_needs_no_ray(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tree_search, "_search_with_ray", lambda *_: pytest.fail("Ray for 20 files"))
    write_dicom_series(chest(), tmp_path / "x")
    assert len(discover(tmp_path, ray_config=RayConfig()).table) == 1


def test_folders_are_walked_once_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/x", "a", ".hidden", "b/.secret"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "2").touch()
        (tmp_path / name / "1").touch()
        (tmp_path / name / ".0").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    walked = [(folder.relative_to(tmp_path).as_posix(), names) for folder, names in walk_folders(tmp_path)]
    assert walked == [(".", []), ("a", ["1", "2"]), ("b", []), ("b/x", ["1", "2"])]


def test_folders_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    """Here one that goes away during the search; the superuser may read any."""
    for name in ("a", "gone", "z"):
        (tmp_path / name).mkdir()
    errors: list[OSError] = []
    walk = walk_folders(tmp_path, on_error=errors.append)
    assert next(walk) == (tmp_path, [])
    (tmp_path / "gone").rmdir()
    assert [folder.name for folder, _ in walk] == ["a", "z"]
    (line,) = tree_search.refused_lines(errors, tmp_path)
    assert line == "gone: the folder cannot be read (No such file or directory)"
