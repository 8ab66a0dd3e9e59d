"""Tasks on label maps through the sweep."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs

from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.slices import read_slices
from ctplatform.evaluation.sweep import sweep
from ctplatform.storage.layout import LABELLED
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.evaluation_world import RUN, table, times
from tests.ctplatform.labelled_world import build_labelled, labelled_recipe


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


def test_a_second_run_makes_what_is_missing_and_nothing_else(swept, tmp_path):
    """As after a kill: a trial that was not committed, and a scan whose features were not."""
    source, cohort, _ = swept
    shutil.copytree(source.root, tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    before, made = times(workspace), files(workspace)
    assert sweep(workspace, cohort, labelled_recipe(), run=RUN).executed == 0
    assert times(workspace) == before
    assert files(workspace) == made
    workspace.delete("evaluation", RUN, "trials", "nodules-scratch-1-0.parquet")
    lost = next(path for path in made if "/features/drasclr-" in path)
    workspace.fs.delete_file(lost)
    assert sweep(workspace, cohort, labelled_recipe(), run=RUN).executed == 1
    assert {n for n, t in times(workspace).items() if before[n] != t} == {"nodules-scratch-1-0.parquet"}
    again = files(workspace)
    assert set(again) == set(made)
    assert {path for path in again if again[path] != made[path]} == {lost}


def files(workspace):
    selector = pafs.FileSelector(workspace.path(LABELLED), recursive=True)
    return {info.path: info.mtime_ns for info in workspace.fs.get_file_info(selector) if info.is_file}


def test_other_label_maps_make_other_trials(swept):
    workspace, cohort, _ = swept
    context, _ = assemble(workspace, cohort, labelled_recipe(), run=RUN)
    cell = Cell("nodules", "scratch", 1.0, 0)
    before = context.fingerprint(cell)
    problem = copy.deepcopy(context.problems["nodules"])
    source = problem.volumes.test[0]
    changed = tuple(
        m if m.task != "nodules" else type(m)(**{**m.__dict__, "key": "other"}) for m in source.maps
    )
    object.__setattr__(source, "maps", changed)
    context.problems["nodules"] = problem
    assert context.fingerprint(cell) != before


def test_fingerprints_and_files_of_earlier_versions_are_found_again(tmp_path, ray_local):
    """Literals and the trial's file are of version 0.1, before the platform had subpackages.

    Those of fine-tuning are of the first version that chooses its number of steps on left-out subjects.
    """
    config = labelled_recipe(
        initialisations=["finetune", "scratch", "density"],
        fractions=[0.5, 1.0],
        scratch={"max_steps": 2, "locations": 1, "pool": 1, "subjects_per_batch": 4},
    )
    workspace, cohort = build_labelled(tmp_path, config, subjects=12)
    workspace.write_bytes(b"weights", "pretrain", RUN, "weights.safetensors")
    context, messages = assemble(workspace, cohort, config, run=RUN)
    assert messages == []
    expected = {
        ("emphysema_subtypes", "finetune"): "5e0fcd2a34da",
        ("emphysema_subtypes", "scratch"): "b092f2008115",
        ("emphysema_subtypes", "density"): "99d9c1eb4446",
        ("nodules", "finetune"): "80907c238e78",
        ("nodules", "scratch"): "7c2ccbd4fde0",
    }
    found = {(task, name): context.fingerprint(Cell(task, name, 1.0, 0)) for task, name in expected}
    assert found == expected
    digest = "168b2ad18c62b640ee2bba74c995fdc7bfc2f6ddbade6e624508acee829ac37a"
    assert context.problems["nodules"].digest("scratch") == digest
    volume = tmp_path / "labelled" / "cubes" / "scan000.77b6243ecf38.parquet"
    assert volume.is_file()
    cell = Cell("emphysema_subtypes", "scratch", 1.0, 0)
    old = Path(__file__).parent.parent / "old_trials" / f"{cell.name}.parquet"
    workspace.write_bytes(old.read_bytes(), "evaluation", RUN, "trials", old.name)
    trial = context.read_trial(cell)
    assert trial.outcome.shape == (len(context.problems[cell.task].test), 4, 5 + 2 * 128)
