"""Fingerprints and files of trials: those of earlier versions are found again."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.cells import Cell, Chosen, Trial
from ctplatform.evaluation.context import METADATA_KEY
from tests.ctplatform.evaluation_world import RUN, build, recipe

OLD_TRIALS = (
    Path(__file__).parent / "old_trials"
)  # written by version 0.1, before the platform had subpackages
TASKS = ["emphysema_extent", "gold_stage"]
INITIALISATIONS = ["drasclr", "finetune", "scratch", "density", "random"]
# (task, initialisation, fraction, searched configurations) -> fingerprint, computed by that version; of fine-tuning,
# by the first version that chooses its number of steps on left-out subjects.
FINGERPRINTS = {
    ("emphysema_extent", "drasclr", 0.5, 0): "091f17d9448c",
    ("emphysema_extent", "drasclr", 1.0, 3): "ee39d20b43e6",
    ("emphysema_extent", "finetune", 0.5, 0): "f16567e8f864",
    ("emphysema_extent", "finetune", 1.0, 3): "4f1ec90d3e41",
    ("emphysema_extent", "scratch", 0.5, 0): "4ba3db2f1c71",
    ("emphysema_extent", "scratch", 1.0, 3): "38fdd63839ec",
    ("emphysema_extent", "density", 1.0, 0): "78216f1f7a0a",
    ("emphysema_extent", "random", 0.5, 0): "6388f7736e84",
    ("gold_stage", "drasclr", 1.0, 0): "4417ada653ef",
    ("gold_stage", "finetune", 0.5, 3): "783cffc8af07",
    ("gold_stage", "scratch", 0.5, 0): "96bf8b24d9f9",
    ("gold_stage", "scratch", 0.5, 3): "bfa9bc653f57",
    ("gold_stage", "density", 0.5, 3): "16eea7d0b91e",
}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    """Contexts without and with a search, by the number of configurations."""
    workspace, cohort = build(tmp_path_factory.mktemp("context"), subjects=16)
    workspace.write_bytes(b"weights", "pretrain", RUN, "weights.safetensors")
    return {
        configurations: assemble(
            workspace,
            cohort,
            recipe(
                tasks=TASKS,
                initialisations=INITIALISATIONS,
                fractions=[0.5, 1.0],
                seeds=1,
                scratch={"max_steps": 2, "locations": 1, "pool": 1, "subjects_per_batch": 4},
                search={"configurations": configurations},
            ),
            run=RUN,
        )[0]
        for configurations in (0, 3)
    }


@pytest.mark.parametrize(("cell", "expected"), FINGERPRINTS.items(), ids=lambda value: str(value))
def test_fingerprints_are_those_of_earlier_versions(contexts, cell, expected):
    task, initialisation, fraction, configurations = cell
    assert contexts[configurations].fingerprint(Cell(task, initialisation, fraction, 0)) == expected


def test_trials_of_earlier_versions_are_found_again(contexts):
    context = contexts[0]
    folder = Path(context.workspace.path("evaluation", RUN, "trials"))
    folder.mkdir(parents=True)
    for cell in (Cell("emphysema_extent", "density", 1.0, 0), Cell("gold_stage", "scratch", 0.5, 0)):
        assert context.read_trial(cell) is None
        shutil.copy(OLD_TRIALS / f"{cell.name}.parquet", folder)
        trial = context.read_trial(cell)
        assert trial.n_test == len(trial.predictions) == len(context.problems[cell.task].test)
        assert trial.predictions["subject_id"].tolist() == list(context.problems[cell.task].test_subjects)
        assert trial.outcome.tolist() == trial.predictions["prediction"].tolist()
        # Written again, the file is the same.
        context.write_trial(trial)
        old, new = (pq.read_table(path / f"{cell.name}.parquet") for path in (OLD_TRIALS, folder))
        assert new.equals(old)
        assert new.schema.equals(old.schema)
        assert new.schema.metadata[METADATA_KEY] == old.schema.metadata[METADATA_KEY]


def test_a_trial_of_other_settings_is_stale(contexts):
    plain, searched = contexts[0], contexts[3]
    cell = Cell("gold_stage", "scratch", 1.0, 0)
    table = pd.DataFrame({"prediction": [0.0]})
    plain.write_trial(Trial(cell, 1, 1, 0.1, ("note",), table, {"lr": 0.1}))
    found = plain.read_trial(cell)
    assert (found.notes, dict(found.details)) == (("note",), {"lr": 0.1})
    assert searched.read_trial(cell) is None


def test_a_search_is_found_until_settings_change(contexts):
    plain, searched = contexts[0], contexts[3]
    cell = Cell("emphysema_extent", "finetune", 0.5, 0)
    assert searched.searches(cell)
    assert not plain.searches(cell)
    assert not searched.searches(Cell("emphysema_extent", "density", 0.5, 0))
    assert searched.read_chosen(cell) is None
    chosen = Chosen(1e-3, 1e-4, 3, 1, 2.5)
    searched.write_chosen(cell, chosen, [{"number": 0}])
    assert searched.read_chosen(cell) == chosen
    assert plain.read_chosen(cell) is None
    record = searched.workspace.read_json("evaluation", RUN, "searches", f"{cell.name}.json")
    assert list(record) == ["fingerprint", "chosen", "attempts"]
    assert list(record["chosen"]) == ["lr", "weight_decay", "configurations", "stopped", "seconds"]
