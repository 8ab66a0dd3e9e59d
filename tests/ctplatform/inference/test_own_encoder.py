"""Encoders of a user's own: found by name, checked, run by the stage `embed`, and entering the sweep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.loader import load_recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.shards import read_patches
from ctplatform.dataset.splits import read_split
from ctplatform.errors import ConfigError, StageError
from ctplatform.evaluation.sweep import sweep
from ctplatform.imaging.volume import read_volume
from ctplatform.inference.embed import embed
from ctplatform.inference.own_encoder import (
    PatchEncoder,
    VolumeEncoder,
    checked,
    encoding,
    factory,
    identity,
    own_encoder,
)
from ctplatform.inference.pooling import pool
from ctplatform.report.build import build_report
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.inference import own_encoders

HERE = "tests.ctplatform.inference.own_encoders"


def test_an_encoder_is_found_by_its_name_and_its_method():
    assert isinstance(own_encoder(f"{HERE}:Patches"), PatchEncoder)
    assert isinstance(own_encoder(f"{HERE}:Volume"), VolumeEncoder)
    assert factory(f"{HERE}:Volume") is own_encoders.Volume
    assert identity(f"{HERE}:Patches") != identity(f"{HERE}:Volume")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:Encoder", "cannot be imported: ModuleNotFoundError"),
        (f"{HERE}:Missing", "cannot be imported: AttributeError"),
        (f"{HERE}:Both", "has both of the methods"),
        (f"{HERE}:network", "has none of the methods"),
        (f"{HERE}:broken", "cannot be made: RuntimeError: no weights"),
        (f"{HERE}:np.pi", "cannot be called"),
        ("mine", r"is no entry point of the group drasclr\.encoders"),
    ],
)
def test_what_is_no_encoder_is_refused_with_the_reason(target, message):
    with pytest.raises(StageError, match=message):
        own_encoder(target)


def test_another_shape_is_refused():
    assert checked([1, 2], target="t").dtype == np.float32
    with pytest.raises(StageError, match=r"shape \[2\], not \[3, P\]"):
        checked(np.zeros(2), target="t", count=3)
    with pytest.raises(StageError, match="no array of numbers"):
        checked(np.array(["a"]), target="t")


def test_an_error_of_an_encoder_names_it_and_the_scan():
    with (
        pytest.raises(StageError, match="'mine' failed on scan s1: ZeroDivisionError"),
        encoding("mine", "s1"),
    ):
        1 / 0  # noqa: B018


def test_a_changed_version_has_another_identity(monkeypatch):
    before = identity(f"{HERE}:Patches")
    monkeypatch.setattr(own_encoders.Patches, "version", "2")
    assert identity(f"{HERE}:Patches") != before


def test_a_recipe_compares_it_without_naming_it_once_more():
    recipe = load_recipe("fast", [f"sweep.encoders.mine={HERE}:Patches"])
    assert recipe.sweep.initialisations[-1] == "mine"
    with pytest.raises(ConfigError, match="encoders: 'drasclr': taken"):
        load_recipe("fast", [f"sweep.encoders.drasclr={HERE}:Patches"])


@pytest.fixture(scope="module")
def embedded(trained, small_recipe, tmp_path_factory, ray_local):
    """A trained workspace in which two encoders of a user's own were run: (workspace, recipe, run, cohort, done)."""
    source, run, cohort = trained
    folder = tmp_path_factory.mktemp("own")
    (folder / "pretrain").mkdir()
    for name in ("atlas", "scans", "patches", "splits.json", f"pretrain/{run}"):
        (folder / name).symlink_to(source.path(*name.split("/")))
    workspace = Workspace(folder)
    own = {"mine": f"{HERE}:Patches", "whole": f"{HERE}:Volume"}
    recipe = small_recipe.model_copy(
        update={
            "embed": small_recipe.embed.model_copy(update={"encoders": ()}),
            "sweep": small_recipe.sweep.model_copy(update={"encoders": own}),
        }
    )
    return workspace, recipe, run, cohort, embed(workspace, recipe, run=run, cohort=cohort, own=True)


def test_the_stage_writes_its_vectors_beside_the_others(embedded):
    workspace, recipe, run, cohort, done = embedded
    own = recipe.sweep.encoders
    assert done.encoders == ("mine", "whole")
    assert embed(workspace, recipe, run=run, cohort=cohort, own=True).done == 0
    patients = {
        name: workspace.read_table("embeddings", run, f"patients-{name}.parquet")
        .to_pandas()
        .set_index("scan_id")["vector"]
        for name in own
    }
    assert len(patients["mine"]) == len(patients["whole"]) == done.scans
    scan = cohort[cohort["scan_id"] == patients["whole"].index[0]].iloc[0]
    image = read_volume(scan["path"], series_uid=scan["series_uid"] or None).image
    vector = own_encoders.Volume().encode_volume(
        sitk.GetArrayFromImage(image), tuple(reversed(image.GetSpacing()))
    )
    np.testing.assert_allclose(patients["whole"].iloc[0], vector, rtol=1e-5, atol=1e-5)
    atlas = read_atlas(workspace)
    locations_N, hu_NDHW = read_patches(workspace, scan["scan_id"])
    vectors_NP = own_encoders.Patches().encode_patches(hu_NDHW, atlas.coordinates_N3[locations_N])
    (name,) = {n for n in workspace.files("embeddings", run, "patches") if _holds(workspace, run, n, scan)}
    written = workspace.read_table("embeddings", run, "patches", name).to_pandas()
    written = written[written["scan_id"] == scan["scan_id"]]
    np.testing.assert_array_equal(written["location"], locations_N)
    np.testing.assert_allclose(np.stack(written["vector"]), vectors_NP, rtol=1e-5, atol=1e-5)
    pooled = pool(vectors_NP[None], written["inside"].to_numpy()[None], "mean")[0]
    np.testing.assert_allclose(patients["mine"].loc[scan["scan_id"]], pooled, rtol=1e-5, atol=1e-5)


def test_they_are_swept_and_reported_with_the_same_subjects_and_intervals(embedded, tmp_path):
    workspace, recipe, run, cohort, _ = embedded
    for scan in cohort["scan_id"]:  # a third encoder's vectors, which were computed elsewhere
        np.savez(tmp_path / f"{scan}.npz", vector=np.random.default_rng(len(scan)).normal(size=4))
    keys = {
        "tasks": ["emphysema_extent"],
        "encoders": dict(recipe.sweep.encoders),
        "external": {"theirs": str(tmp_path)},
        "initialisations": [],
        "fractions": [1.0],
        "seeds": 2,
        "bootstrap": 100,
    }
    recipe = recipe.model_validate(recipe.model_dump() | {"sweep": keys})
    done = sweep(workspace, cohort, recipe, run=run)
    assert (done.trials, done.failed) == (3 * 2, 0)
    rows = workspace.read_table("evaluation", run, "summary.parquet").to_pandas()
    rows = rows[rows["metric"] == "r2"].set_index("initialisation")
    assert set(rows.index) == {"mine", "whole", "theirs"}
    assert (rows["low"] <= rows["value"]).all()
    assert (rows["value"] <= rows["high"]).all()
    assert rows["n_test"].nunique() == rows["n_train"].nunique() == 1
    predictions = workspace.read_table("evaluation", run, "predictions.parquet").to_pandas()
    subjects = predictions.groupby("initialisation")["subject_id"].agg(lambda ids: tuple(sorted(set(ids))))
    assert set(subjects) == {tuple(sorted(read_split(workspace).test))}
    report = build_report(workspace, recipe, run=run)
    html = Path(report.html).read_text(encoding="utf-8")
    assert all(f">{name}<" in html for name in ("mine", "whole", "theirs"))


def _holds(workspace: Workspace, run: str, name: str, scan) -> bool:
    table = workspace.read_table("embeddings", run, "patches", name, columns=["scan_id"])
    return scan["scan_id"] in table.column("scan_id").to_pylist()
