"""Tasks on label maps: geometry, windows, heads, and the way through the sweep."""

import copy
import shutil

import numpy as np
import pandas as pd
import pyarrow.fs as pafs
import pytest
import SimpleITK as sitk
import torch

from ctplatform.config.loader import validate
from ctplatform.dataset import shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.ledger import read_ledger
from ctplatform.errors import ScanError, StageError
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.dense import lung_volume as cubes
from ctplatform.evaluation.dense import regions
from ctplatform.evaluation.dense.features import cells_of, encode, prepare_scan, read_cells, training_rows
from ctplatform.evaluation.dense.head import WindowHead, log_frequency
from ctplatform.evaluation.dense.problem import _sources
from ctplatform.evaluation.dense.slices import read_slices
from ctplatform.evaluation.dense.windows import cut, normaliser, windows_of
from ctplatform.evaluation.models import pretrained_of
from ctplatform.evaluation.problems import assemble
from ctplatform.evaluation.sweep import sweep
from ctplatform.imaging.label_map import read_label_map
from ctplatform.pipeline.state import WorkspaceState, labels_digest
from ctplatform.storage.layout import LABELLED
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from drasclr import augment
from drasclr.encoder import Encoder
from tests.ctplatform.evaluation.test_sweep import table, times
from tests.ctplatform.evaluation_world import RUN, tiny_atlas
from tests.ctplatform.labelled_world import build_labelled, labelled

VALUES = {"normal": 1, "centrilobular": 2, "panlobular": 3, "paraseptal": 4}


def recipe(**keys):
    values = {
        "tasks": ["emphysema_subtypes", "nodules"],
        "initialisations": ["drasclr", "finetune", "scratch", "density"],
        "fractions": [1.0],
        "seeds": 1,
        "bootstrap": 200,
        "scratch": {"max_steps": 2, "locations": 1, "pool": 1},
        "dense": {"stride": 16, "train_windows": 64, "batch": 8},
        "segmentation": {"steps": 2, "crop": 32, "crops_per_batch": 2, "window": 32, "overlap": 0.0},
        **keys,
    }
    return validate({"sweep": values, "pretrain": {"encoder": {"experts": 1}}})


@pytest.fixture(scope="module")
def swept(tmp_path_factory, ray_local):
    """A finished sweep of both kinds of task."""
    workspace, cohort = build_labelled(tmp_path_factory.mktemp("labelled"), recipe())
    return workspace, cohort, sweep(workspace, cohort, recipe(), run=RUN)


@pytest.fixture(scope="module")
def real_cube(prepared, small_recipe):
    """A phantom scan's cube, made from its files, with two of its label maps."""
    workspace, cohort = prepared
    ledger = read_ledger(workspace)
    one = cohort[cohort["scan_id"] == ledger["scan_id"].iloc[1]]
    tasks = {name: get_task(name) for name in ("emphysema_subtypes", "lobes")}
    sources = _sources(tasks, {name: task.maps(one) for name, task in tasks.items()}, small_recipe, ledger)
    (source,) = sources.values()
    facts = prepare_scan(workspace, source, small_recipe.prepare.model_dump_json(), 16)
    return workspace, source, facts, cubes.read_cube(workspace, *source.cube), one.iloc[0]


def test_a_cube_holds_the_patches_that_the_encoder_was_trained_on(real_cube):
    """A window at an atlas location is the shard's patch there, and gets that location's coordinates."""
    workspace, source, _, cube, _ = real_cube
    atlas = read_atlas(workspace)
    locations, hu_NDHW = shards.read_patches(workspace, source.scan_id)
    centres_mm = np.c_[atlas.centres_mm_N3, np.ones(len(atlas.centres_mm_N3))] @ cube.affine_44.T
    index = (centres_mm @ np.linalg.inv(cube.to_scan_44).T)[:, :3][:, ::-1]
    corners = np.rint(index - 15.5).astype(int)
    inside = ((corners >= 0) & (corners + 32 <= cube.hu_ZYX.shape)).all(1)
    assert inside.sum() >= 5
    for location in np.flatnonzero(inside)[:8]:
        z, y, x = corners[location]
        window = cube.hu_ZYX[z : z + 32, y : y + 32, x : x + 32]
        assert np.abs(window.astype(int) - hu_NDHW[locations == location][0]).max() <= 1
    coordinates = cube.coordinates(atlas, corners[inside] + 15.5)
    np.testing.assert_allclose(
        coordinates, atlas.coordinates_N3[inside], atol=0.02
    )  # half a voxel of rounding
    between = cube.coordinates(atlas, (corners[inside][:1] + corners[inside][1:2]) / 2 + 15.5)
    np.testing.assert_allclose(between[0], coordinates[:2].mean(0), atol=1e-6)


def test_label_maps_come_onto_the_cube(real_cube):
    workspace, source, facts, cube, row = real_cube
    maps = {m.task: cubes.read_labels(workspace, *source.labels(m)) for m in source.maps}
    subtypes, lobes = maps["emphysema_subtypes"], maps["lobes"]
    assert (subtypes > 0)[cube.lungs_ZYX].mean() > 0.9
    assert set(np.unique(lobes)) == set(range(6))
    assert facts["lobes"]["voxels"] == np.bincount(lobes.ravel(), minlength=6)[1:].tolist()
    truth = sitk.GetArrayFromImage(sitk.ReadImage(row["subtype_map"]))
    share = (truth > 1).sum() / (truth > 0).sum()
    assert (subtypes > 1).sum() / (subtypes > 0).sum() == pytest.approx(share, abs=0.01)
    cells = read_cells(workspace, *source.cells(source.maps[0], 16))
    np.testing.assert_array_equal(
        cells.counts_MC.sum(0) + cells.missed_C, facts["emphysema_subtypes"]["voxels"]
    )


def test_every_voxel_of_lung_belongs_to_one_window(real_cube):
    cube = real_cube[3]
    for stride in (8, 24, 32):
        windows = windows_of(cube.lungs_ZYX, stride=stride)
        assert windows.count(cube.lungs_ZYX).sum() == cube.lungs_ZYX.sum()
        painted = windows.paint(np.arange(1, len(windows) + 1), cube.lungs_ZYX)
        np.testing.assert_array_equal(painted > 0, cube.lungs_ZYX)
        window = windows.corners_M3[len(windows) // 2]
        cell = np.argwhere(painted == len(windows) // 2 + 1)
        assert (cell >= window).all()
        assert (cell < window + 32).all()
        assert windows.corners_M3.min() >= 0


def test_the_map_of_a_perfect_classifier_is_the_truth():
    cube, subtypes, _ = labelled(np.random.default_rng(0))
    cells = cells_of(cube, subtypes, classes=4, stride=16)
    painted = cells.windows.paint((cells.classes_M + 1).astype(np.uint8), cube.lungs_ZYX)
    np.testing.assert_array_equal(painted, subtypes)


def test_features_of_windows_are_the_encoders_of_each_window_alone():
    torch.manual_seed(0)
    cube, *_ = labelled(np.random.default_rng(0))
    encoder, atlas = Encoder(2).eval(), tiny_atlas()
    windows = windows_of(cube.lungs_ZYX, stride=12)
    features = encode(encoder, cube, windows, atlas, hu_window=(-1024, 240))
    assert features.shape == (len(windows), 128)
    for row in (0, len(windows) - 1):
        corner = windows.corners_M3[[row]]
        at = torch.from_numpy(cube.coordinates(atlas, corner + 15.5))
        patch = augment.normalise(torch.from_numpy(cut(cube.hu_ZYX, corner)))
        with torch.no_grad():
            np.testing.assert_allclose(features[row], encoder(patch, at)[0], atol=1e-5)


def test_training_windows_hold_as_many_of_each_class_and_stand_for_all():
    cube, subtypes, _ = labelled(np.random.default_rng(3))
    cells = cells_of(cube, subtypes, classes=4, stride=4)
    rows, weights = training_rows(cells, count=20, scan_id="a")
    classes = cells.classes_M
    assert set(np.unique(classes[rows], return_counts=True)[1]) == {10}
    for c in np.unique(classes):
        assert weights[classes[rows] == c].sum() == pytest.approx((classes == c).sum())
    np.testing.assert_array_equal(training_rows(cells, count=20, scan_id="a")[0], rows)
    assert not np.array_equal(training_rows(cells, count=20, scan_id="b")[0], rows)


def test_the_head_finds_rare_classes_and_says_nothing_of_absent_ones():
    rng = np.random.default_rng(0)
    classes = rng.choice(4, 600, p=[0.85, 0.1, 0.0, 0.05])
    x = np.eye(4)[classes] @ rng.normal(size=(4, 20)) * 2 + rng.normal(size=(600, 20))
    subjects = np.arange(600) % 6
    head = WindowHead(4).fit(x[:400], classes[:400], np.ones(400), subjects[:400], seed=0)
    called = head.predict(x[400:]).argmax(1)
    for c in (1, 3):
        assert (called[classes[400:] == c] == c).mean() > 0.8
    assert head.predict(x).sum(1) == pytest.approx(1.0)
    assert (head.predict(x)[:, 2] < 1e-6).all()
    weights, bias = head.linear()
    scores = x @ weights.T + bias - head.prior_ * head.log_frequency_C
    np.testing.assert_array_equal(scores.argmax(1), head.predict(x).argmax(1))


def test_label_maps_that_cannot_be_used_say_why(tmp_path):
    image = sitk.GetImageFromArray(np.full((4, 5, 6), 7, np.uint8))
    sitk.WriteImage(image, str(tmp_path / "map.nii.gz"))
    with pytest.raises(ScanError, match=r"value 7, which no class has.*sweep\.classes"):
        read_label_map(str(tmp_path / "map.nii.gz"), VALUES)
    assert sitk.GetArrayFromImage(read_label_map(str(tmp_path / "map.nii.gz"), {"a": 3, "b": 7})).max() == 2
    with pytest.raises(ScanError, match="no label map"):
        read_label_map(str(tmp_path / "none.nii.gz"), VALUES)
    (tmp_path / "torn.nii.gz").write_bytes(b"no volume")
    with pytest.raises(ScanError, match="cannot be read"):
        read_label_map(str(tmp_path / "torn.nii.gz"), VALUES)
    cube, subtypes, _ = labelled(np.random.default_rng(0))
    with pytest.raises(ScanError, match="0% of the label map's voxels lie on the"):
        cubes.check_on_lungs(cube, np.where(cube.lungs_ZYX, 0, 1))
    cubes.check_on_lungs(cube, subtypes)


def test_both_tasks_go_through_the_sweep(swept):
    workspace, _, summary = swept
    # Frozen features have no voxels: segmentation has the two trained initialisations.
    assert (summary.trials, summary.executed, summary.messages) == (4 + 2, 6, ())
    values = table(workspace, "summary").set_index(["task", "initialisation", "fraction", "metric"])["value"]
    assert values["emphysema_subtypes", "density", 1.0, "dice_mean"] > 0.6
    assert values["emphysema_subtypes", "density", 1.0, "auroc_panlobular"] > 0.9
    assert np.isfinite(values["nodules", "finetune", 1.0, "hd95"])
    predictions = table(workspace, "predictions")
    rows = predictions[predictions["task"] == "emphysema_subtypes"]
    per_subject = rows.groupby(["initialisation", "fraction", "subject_id"])[["target", "prediction"]].sum()
    np.testing.assert_allclose(per_subject, 100)
    comparisons = table(workspace, "comparisons")
    assert set(comparisons[comparisons["task"] == "nodules"]["a"]) == {"finetune"}
    assert set(comparisons[comparisons["task"] == "emphysema_subtypes"]["a"]) == {"drasclr"}


def test_slices_for_the_report_are_kept_of_the_most_labels(swept):
    slices = read_slices(swept[0], RUN)
    assert set(slices) == {
        *(("emphysema_subtypes", name) for name in ("drasclr", "finetune", "scratch", "density")),
        *(("nodules", name) for name in ("finetune", "scratch")),
    }
    first = slices["emphysema_subtypes", "density"][0]
    assert first.grey.shape == first.truth.shape == first.predicted.shape == (64, 64)
    assert first.truth.max() > 1


def test_a_second_run_makes_what_is_missing_and_nothing_else(swept):
    """As after a kill: a trial that was not committed, and a scan whose features were not."""
    workspace, cohort, _ = swept
    before, made = times(workspace), files(workspace)
    assert sweep(workspace, cohort, recipe(), run=RUN).executed == 0
    assert times(workspace) == before
    assert files(workspace) == made
    workspace.delete("evaluation", RUN, "trials", "nodules-scratch-1-0.parquet")
    lost = next(path for path in made if "/features/drasclr-" in path)
    workspace.fs.delete_file(lost)
    assert sweep(workspace, cohort, recipe(), run=RUN).executed == 1
    assert {n for n, t in times(workspace).items() if before[n] != t} == {"nodules-scratch-1-0.parquet"}
    again = files(workspace)
    assert set(again) == set(made)
    assert {path for path in again if again[path] != made[path]} == {lost}


def files(workspace):
    selector = pafs.FileSelector(workspace.path(LABELLED), recursive=True)
    return {info.path: info.mtime_ns for info in workspace.fs.get_file_info(selector) if info.is_file}


def test_without_a_step_fine_tuning_is_the_frozen_head(swept):
    workspace, cohort, _ = swept
    shared, _ = assemble(workspace, cohort, recipe(), run=RUN)
    problem = shared.problems["emphysema_subtypes"]
    rows = np.arange(len(problem.train))
    weights_CP, bias_C = regions.fit_head(shared, problem, rows, "drasclr", seed=0).linear()
    windows = [regions.TrainingWindows(shared, problem, source) for source in problem.train_sources]
    class_M = np.concatenate([w.class_M for w in windows])
    frequency_C = log_frequency(class_M, np.concatenate([w.weight_M for w in windows]), 4)
    encoder, head, normalise = pretrained_of(shared), torch.nn.Linear(128, 4), normaliser((-1024, 240))
    regions._start_at_probe(encoder, head, windows, normalise, frequency_C, seed=0)
    first = windows[0]
    x_MP = regions._features(encoder, first.hu_MDHW, first.locations_M3, normalise)
    with torch.no_grad():
        tuned_MC = head(torch.from_numpy(x_MP)).numpy() + frequency_C
    np.testing.assert_allclose(tuned_MC, x_MP @ weights_CP.T + bias_C, atol=0.02)


def test_other_label_maps_make_other_trials(swept):
    workspace, cohort, _ = swept
    shared, _ = assemble(workspace, cohort, recipe(), run=RUN)
    cell = Cell("nodules", "scratch", 1.0, 0)
    before = shared.fingerprint(cell)
    problem = copy.deepcopy(shared.problems["nodules"])
    source = problem.test_sources[0]
    changed = tuple(
        m if m.task != "nodules" else type(m)(**{**m.__dict__, "key": "other"}) for m in source.maps
    )
    object.__setattr__(problem.test_sources[0], "maps", changed)
    shared.problems["nodules"] = problem
    assert shared.fingerprint(cell) != before


def test_classes_of_other_maps_are_named_in_the_recipe(swept):
    workspace, cohort, _ = swept
    wrong = recipe(classes={"nodules": {"nodul": 1}})
    with pytest.raises(StageError, match="names nodul"):
        assemble(workspace, cohort, wrong, run=RUN)


def test_scans_without_a_usable_map_are_left_out_and_named(tmp_path, ray_local):
    config = recipe(tasks=["emphysema_subtypes"], initialisations=["density"], fractions=[1.0])
    workspace, cohort = build_labelled(tmp_path, config)
    lost = cohort["scan_id"].iloc[3]
    (name,) = [n for n in workspace.files(LABELLED, "emphysema_subtypes") if n.startswith(lost)]
    workspace.delete(LABELLED, "emphysema_subtypes", name)
    summary = sweep(workspace, cohort, config, run=RUN)
    assert summary.trials == 1
    assert any(f"scan {lost} is left out: there is no label map" in m for m in summary.messages)


def test_the_chain_sees_other_label_maps_and_not_other_places(tmp_path):
    cohort = pd.DataFrame({"scan_id": ["a", "b"], "subject_id": ["a", "b"], "path": "", "subtype_map": ""})

    def digest(folder):
        maps = [str(folder / "a.nii.gz"), None]
        return labels_digest(WorkspaceState(Workspace(tmp_path), cohort.assign(subtype_map=maps), recipe()))

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a.nii.gz").write_bytes(b"a map")
    shutil.copytree(here, there)
    first = digest(here)
    assert digest(there) == first
    (there / "a.nii.gz").write_bytes(b"another map")
    assert digest(there) != first
