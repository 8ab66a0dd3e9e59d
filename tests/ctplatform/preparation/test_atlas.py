"""The atlas is built from the cohort or given, and kept while its settings stay the same."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.loader import load_recipe
from ctplatform.dataset.atlas import image_to_bytes, read_atlas, read_template
from ctplatform.errors import StageError
from ctplatform.preparation.atlas import PUBLISHED_CORNERS, PUBLISHED_TEMPLATE, _Masker, atlas
from ctplatform.storage.layout import ATLAS
from ctplatform.storage.workspace import Workspace
from tests.conftest import SMALL
from tests.ctplatform.preparation.phantoms import phantom_scan


def given(source) -> object:
    return load_recipe("demo", [*SMALL, f"atlas.source={source}", "atlas.step=10"])


def label_values(workspace) -> set[int]:
    return set(np.unique(sitk.GetArrayFromImage(read_template(workspace))).tolist())


def test_a_built_atlas_is_kept_while_its_settings_are_the_same(prepared, unprepared, small_recipe):
    _, cohort = prepared
    again = atlas(unprepared, cohort, small_recipe)
    assert again["made"] is False
    assert again["hash"] == read_atlas(unprepared).hash
    assert again["locations"] == read_atlas(unprepared).num_locations
    assert again["scans"] == 4
    coarser = load_recipe("demo", [*SMALL, "atlas.step=80"])
    seen = []
    made = atlas(unprepared, cohort, coarser, on_progress=lambda *counts: seen.append(counts))
    assert made["made"] is True
    assert made["hash"] == read_atlas(unprepared).hash != again["hash"]
    assert seen == [(k, 4) for k in range(1, 5)]


def test_the_draw_does_not_depend_on_the_order_of_the_table(prepared, small_recipe, tmp_path):
    source, cohort = prepared
    workspace = Workspace(tmp_path)
    atlas(workspace, cohort[::-1].reset_index(drop=True), small_recipe)
    assert read_atlas(workspace).hash == read_atlas(source).hash


def test_a_built_atlas_needs_a_cohort(small_recipe, tmp_path):
    with pytest.raises(StageError, match="none was given"):
        atlas(Workspace(tmp_path), None, small_recipe)


def test_scans_without_lungs_are_named(small_recipe, tmp_path, ray_local):
    import pandas as pd

    sitk.WriteImage(sitk.Image(40, 40, 40, sitk.sitkInt16), str(tmp_path / "soft.nii.gz"))
    row = {"scan_id": "soft", "subject_id": "s", "path": str(tmp_path / "soft.nii.gz"), "series_uid": ""}
    with pytest.raises(StageError, match=r"none of 1 scans has a lung mask .*soft: "):
        atlas(Workspace(tmp_path / "ws"), pd.DataFrame([row]), small_recipe)


def test_a_scan_whose_worker_dies_each_time_is_named(small_recipe, tmp_path, ray_local):
    """A limit that no scan keeps ends the worker of each attempt, and the attempts end."""
    import pandas as pd

    sitk.WriteImage(phantom_scan(0), str(tmp_path / "slow.nii.gz"))
    row = {"scan_id": "slow", "subject_id": "s", "path": str(tmp_path / "slow.nii.gz"), "series_uid": ""}
    limited = small_recipe.prepare.model_copy(update={"max_seconds": 1e-3})
    recipe = small_recipe.model_copy(update={"prepare": limited})
    with pytest.raises(StageError, match=r"none of 1 scans .*slow: its worker died each time"):
        atlas(Workspace(tmp_path / "ws"), pd.DataFrame([row]), recipe)


def test_a_scan_with_one_lung_is_left_out_with_its_reason(small_recipe, tmp_path):
    scan = phantom_scan(0)
    half = scan.GetSize()[0] // 2
    sitk.WriteImage(scan[:half], str(tmp_path / "half.nii.gz"))
    row = {"scan_id": "half", "path": str(tmp_path / "half.nii.gz"), "series_uid": "", "lung_mask": ""}
    found = _Masker(small_recipe)(row)
    assert not found["mask"]
    assert found["problem"].startswith("one lung only") or "lung volume" in found["problem"]


@pytest.fixture
def template(lungs_ZYX):
    image = sitk.GetImageFromArray(lungs_ZYX)
    image.SetSpacing((4.0, 4.0, 4.0))
    return image


@pytest.mark.parametrize("suffix", ["nii.gz", "nii", "nrrd", "mha"])
def test_given_as_a_file_or_as_another_workspaces_atlas(template, tmp_path, suffix):
    file = tmp_path / f"mask.{suffix}"
    sitk.WriteImage(template, str(file))
    first, second = Workspace(tmp_path / "a"), Workspace(tmp_path / "b")
    made = atlas(first, None, given(file))
    assert (made["made"], made["scans"]) == (True, 0)
    assert made["locations"] == read_atlas(first).num_locations > 10
    assert label_values(first) == {0, 50, 100}
    atlas(second, None, given(first.path(ATLAS)))
    assert read_atlas(second).hash == read_atlas(first).hash
    assert atlas(second, None, given(first.path(ATLAS)))["made"] is False


def test_the_published_folder_gives_its_own_corners(template, tmp_path):
    folder = Workspace(tmp_path / "published")
    folder.write_bytes(image_to_bytes(template), PUBLISHED_TEMPLATE)
    atlas(Workspace(tmp_path / "own"), None, given(folder.path()))
    corners = read_atlas(Workspace(tmp_path / "own")).corners_N3[::2]
    with open(folder.path(PUBLISHED_CORNERS), "wb") as stream:
        np.save(stream, corners)
    workspace = Workspace(tmp_path / "ws")
    atlas(workspace, None, given(folder.path()))
    np.testing.assert_array_equal(read_atlas(workspace).corners_N3, corners)


@pytest.mark.parametrize("content", ["nothing", "flat", "empty"])
def test_what_is_no_template_is_refused(tmp_path, content):
    folder = tmp_path / "source"
    folder.mkdir()
    if content == "flat":
        sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8) + 50, str(folder / "lung_mask.nii.gz"))
    elif content == "empty":
        sitk.WriteImage(sitk.Image(8, 8, 8, sitk.sitkUInt8), str(folder / "lung_mask.nii.gz"))
    with pytest.raises(StageError, match="holds no atlas"):
        atlas(Workspace(tmp_path / "ws"), None, given(folder))
