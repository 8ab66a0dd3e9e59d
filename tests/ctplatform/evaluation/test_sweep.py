"""The sweep on a workspace with a known truth, with a real local Ray."""

import numpy as np
import pytest
import torch

from ctplatform.config.ablations import CHANGES, ablated
from ctplatform.config.loader import load_recipe, validate
from ctplatform.errors import ConfigError, StageError
from ctplatform.evaluation.cells import Cell, label_subset
from ctplatform.evaluation.problems import assemble
from ctplatform.evaluation.sweep import sweep
from ctplatform.evaluation.trial import run_trial
from ctplatform.metrics.scores import Targets
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task
from drasclr import weights
from drasclr.encoder import Encoder
from tests.ctplatform.evaluation_world import RUN, build, tiny_atlas
from tests.ctplatform.objectstore import ObjectStore


def recipe(**sweep_keys):
    values = {
        "fractions": [0.3, 1.0],
        "seeds": 2,
        "bootstrap": 200,
        "scratch": {"max_steps": 1, "locations": 1, "pool": 1, "subjects_per_batch": 4},
        **sweep_keys,
    }
    return validate({"sweep": values, "pretrain": {"encoder": {"experts": 1}}})


def times(workspace):
    names = workspace.files("evaluation", RUN, "trials")
    return {
        n: workspace.fs.get_file_info(workspace.path("evaluation", RUN, "trials", n)).mtime_ns for n in names
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory, ray_local):
    """A finished sweep: three tasks, four initialisations, two fractions, two seeds."""
    workspace, cohort = build(tmp_path_factory.mktemp("swept"))
    seen = []
    summary = sweep(workspace, cohort, recipe(), run=RUN, on_progress=lambda *step: seen.append(step))
    return workspace, cohort, summary, seen


def table(workspace, name):
    return workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()


def test_every_cell_has_a_result(swept):
    workspace, _, summary, seen = swept
    assert (summary.trials, summary.executed) == (48, 48)
    assert seen[0] == (0, 48)
    assert seen[-1] == (48, 48)
    results = table(workspace, "results")
    assert len(results) == 4 * 2 * 2 * (3 + 3 + 1)
    assert results["value"].notna().all()
    assert set(results["n_test"]) == {16}
    assert set(results.loc[results["fraction"] == 1.0, "n_train"]) == {24}
    predictions = table(workspace, "predictions")
    assert len(predictions) == 48 * 16
    assert predictions.loc[predictions["task"] == "survival", "event"].isin([0, 1]).all()
    assert predictions.loc[predictions["task"] != "survival", "event"].isna().all()


def test_signal_is_found_and_noise_is_not(swept):
    summary = table(swept[0], "summary").set_index(["task", "initialisation", "fraction", "metric"])
    signal, noise = (summary.loc["emphysema_extent", name, 1.0, "r2"] for name in ("drasclr", "random"))
    assert signal["value"] > 0.9
    assert signal["low"] > 0.7
    assert noise["value"] < 0.2
    assert noise["low"] < 0 <= noise["chance"]
    assert summary.loc["survival", "drasclr", 1.0, "c_index"]["value"] > 0.6
    assert summary.loc["gold_stage", "drasclr", 1.0, "within_one"]["value"] > 0.9
    assert summary["n_seeds"].eq(2).all()
    assert (summary["low"] <= summary["value"]).all()
    assert (summary["value"] <= summary["high"]).all()


def test_comparisons_are_against_drasclr(swept):
    comparisons = table(swept[0], "comparisons").set_index(["task", "b", "fraction", "metric"])
    assert set(comparisons["a"]) == {"drasclr"}
    row = comparisons.loc["emphysema_extent", "random", 1.0, "r2"]
    summary = table(swept[0], "summary").set_index(["task", "initialisation", "fraction", "metric"])["value"]
    signal, noise = (summary.loc["emphysema_extent", name, 1.0, "r2"] for name in ("drasclr", "random"))
    assert row["difference"] == pytest.approx(signal - noise)
    assert row["low"] > 0
    assert row["p"] < 0.02


def test_labels_saved_are_counted_against_training_from_scratch(swept):
    savings = table(swept[0], "savings").set_index(["task", "metric", "initialisation"])
    assert set(savings.index.get_level_values("initialisation")) == {"drasclr", "density", "random"}
    row = savings.loc[
        "emphysema_extent", "spearman", "drasclr"
    ]  # one step from scratch reaches hardly anything
    assert row["n_baseline"] == 24
    assert row["labels"] == row["n_least"] == 7
    assert row["share_reached"] == 1.0
    summary = table(swept[0], "summary").set_index(["task", "initialisation", "fraction", "metric"])
    assert row["target"] == pytest.approx(
        summary.loc["emphysema_extent", "scratch", 1.0, "spearman"]["value"]
    )


def test_fine_tuning_and_other_runs_are_initialisations(tmp_path, ray_local):
    """An encoder of the workspace is fine-tuned; another run's embeddings stand beside it under their own name."""
    workspace, cohort = build(tmp_path, subjects=20)
    publish(workspace, RUN)
    for name in workspace.files("embeddings", RUN):
        content = workspace.read_bytes("embeddings", RUN, name)
        workspace.write_bytes(content, "embeddings", "other", name)
    config = recipe(
        initialisations=["drasclr", "finetune", "scratch", "mine"],
        runs={"mine": "other"},
        tasks=["emphysema_extent"],
        fractions=[1.0],
        seeds=1,
    )
    summary = sweep(workspace, cohort, config, run=RUN)
    assert (summary.trials, summary.messages) == (4, ())
    predictions = table(workspace, "predictions").set_index(["initialisation", "subject_id"])["prediction"]
    assert predictions["mine"].tolist() == predictions["drasclr"].tolist()
    before = predictions["finetune"]
    assert before.notna().all()
    # Other weights: only what was fine-tuned from them runs again.
    publish(workspace, RUN, seed=1)
    assert sweep(workspace, cohort, config, run=RUN).executed == 1
    after = table(workspace, "predictions").set_index(["initialisation", "subject_id"])["prediction"]
    assert after["finetune"].tolist() != before.tolist()


def publish(workspace, run, seed=0):
    """Weights of an encoder with sound statistics, as pretraining leaves them."""
    torch.manual_seed(seed)
    encoder = Encoder(1).train()
    atlas = tiny_atlas()
    encoder(torch.randn(6, 1, 32, 32, 32), torch.from_numpy(atlas.coordinates_N3.copy()).repeat(2, 1))
    for name, data in weights.files(
        encoder.eval(), {"atlas_hash": atlas.hash, "hu_window": [-1024, 240]}
    ).items():
        workspace.write_bytes(data, "pretrain", run, name)


def test_unknown_initialisations_are_refused_with_what_is_known():
    with pytest.raises(ConfigError, match=r"'lokal'.*not among drasclr, finetune"):
        recipe(initialisations=["lokal"])
    assert recipe(initialisations=["local", "x"], ablations=["local"], runs={"x": "r"}).sweep.runs == {
        "x": "r"
    }


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_an_ablation_differs_from_its_recipe_in_what_it_says_only(name):
    base = load_recipe("demo", [f"sweep.ablations=[{name}]"])
    other = ablated(base, name).model_dump()
    plain = base.model_dump()
    changed = {key for key in plain["pretrain"] if plain["pretrain"][key] != other["pretrain"][key]}
    assert changed == set(CHANGES[name])
    assert {key for key in plain if plain[key] != other[key]} == {"name", "pretrain", "embed"}


def test_a_second_run_repeats_nothing(swept):
    workspace, cohort, *_ = swept
    before, tables = times(workspace), {n: table(workspace, n) for n in ("results", "summary", "comparisons")}
    again = sweep(workspace, cohort, recipe(), run=RUN)
    assert (again.trials, again.executed) == (48, 0)
    assert times(workspace) == before
    for name, old in tables.items():
        assert table(workspace, name).equals(old)


def test_only_what_is_missing_or_stale_runs(tmp_path, ray_local):
    workspace, cohort = build(tmp_path, with_shards=False)
    small = recipe(initialisations=["drasclr", "density"], tasks=["emphysema_extent", "gold_stage"], seeds=1)
    sweep(workspace, cohort, small, run=RUN)
    before = times(workspace)
    assert len(before) == 8
    # One trial lost, as if the machine had stopped before it was committed; labels of one task corrected.
    workspace.delete("evaluation", RUN, "trials", "emphysema_extent-density-0.3-0.parquet")
    cohort["gold_stage"] = (cohort["gold_stage"] + 1) % 5
    again = sweep(workspace, cohort, small, run=RUN)
    after = times(workspace)
    assert again.executed == 5
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"emphysema_extent-density-0.3-0.parquet"} | {
        n for n in after if n.startswith("gold_stage")
    }


def test_a_task_without_columns_does_not_end_the_others(tmp_path, ray_local):
    workspace, cohort = build(tmp_path, with_shards=False)
    cohort = cohort.drop(columns="death").assign(gold_stage=2)
    cohort.loc[cohort["subject_id"] == "sub005", "emphysema_extent"] = np.nan
    summary = sweep(workspace, cohort, recipe(initialisations=["drasclr"], seeds=1, fractions=[1.0]), run=RUN)
    assert summary.trials == 1
    messages = " ".join(summary.messages)
    assert "task survival is skipped: the cohort has no column 'death'" in messages
    assert "task gold_stage: all 24 training subjects have the label 2" in messages
    assert "emphysema_extent: 1 of 40 subjects have no label" in messages


def test_no_task_at_all_is_an_error(tmp_path):
    workspace, cohort = build(tmp_path, subjects=12, with_shards=False)
    with pytest.raises(StageError, match="no task can be evaluated"):
        sweep(workspace, cohort[["scan_id", "subject_id"]], recipe(), run=RUN)


def test_scans_of_a_subject_are_averaged_and_rejected_ones_left_out(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    shared, messages = assemble(workspace, cohort, recipe(), run=RUN)
    problem = shared.problems["emphysema_extent"]
    vectors = workspace.read_table("embeddings", RUN, "patients-drasclr.parquet").to_pandas()
    side = 0 if "sub000" in problem.train_subjects else 1
    row = (problem.train_subjects, problem.test_subjects)[side].index("sub000")
    both = np.mean([vectors["vector"][0], vectors["vector"][1]], axis=0)
    assert problem.features["drasclr"][side][row] == pytest.approx(both)
    assert shared.scans["sub000"] == ("scan000", "scan001")
    assert not set(problem.train_subjects) & set(problem.test_subjects)
    assert messages == []


def test_label_subsets_are_nested_and_stratified():
    task = get_task("survival")
    rng = np.random.default_rng(0)
    train = Targets(rng.exponential(size=60), rng.random(60) < 0.4)
    for seed in range(5):
        sets = [set(label_subset(task, train, fraction=f, seed=seed)) for f in (0.2, 0.5, 1.0)]
        assert sets[0] < sets[1] < sets[2]
        assert [len(s) for s in sets] == [12, 30, 60]
        rates = [train.event_N[sorted(s)].mean() for s in sets]
        assert np.ptp(rates) < 0.15
    assert set(label_subset(task, train, fraction=0.3, seed=1)) != set(
        label_subset(task, train, fraction=0.3, seed=2)
    )


def test_a_fraction_too_small_to_fit_is_raised_and_said(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    shared, _ = assemble(workspace, cohort, recipe(), run=RUN)
    trial = run_trial(shared, Cell("survival", "density", 0.05, 0))
    assert trial.n_train >= get_task("survival").minimum
    assert "5% of 24 labelled training subjects is too few to fit" in trial.notes[0]


def test_test_labels_do_not_reach_the_fit(tmp_path):
    """Other labels of the test subjects change no prediction."""
    workspace, cohort = build(tmp_path, with_shards=False)
    shared, _ = assemble(workspace, cohort, recipe(), run=RUN)
    test = set(shared.problems["survival"].test_subjects)
    swapped = cohort.copy()
    mine = swapped["subject_id"].isin(test)
    for column in ("emphysema_extent", "gold_stage", "survival_days", "death"):
        swapped.loc[mine, column] = swapped.loc[mine, column].to_numpy()[::-1]
    other, _ = assemble(workspace, swapped, recipe(), run=RUN)
    for name in shared.problems:
        cell = Cell(name, "drasclr", 0.3, 1)
        a, b = (run_trial(s, cell).predictions for s in (shared, other))
        assert a["prediction"].tolist() == b["prediction"].tolist()
        assert a["target"].tolist() != b["target"].tolist()


def test_a_trial_that_fails_leaves_the_others_and_says_why(tmp_path, ray_local):
    """Without shards nothing can be trained from scratch; with them, the next run does just that trial."""
    workspace, cohort = build(tmp_path, subjects=24)
    shards = [(name, workspace.read_bytes("patches", name)) for name in workspace.files("patches")]
    workspace.delete("patches")
    small = recipe(
        initialisations=["density", "scratch"], tasks=["emphysema_extent"], seeds=1, fractions=[1.0]
    )
    summary = sweep(workspace, cohort, small, run=RUN)
    assert (summary.trials, summary.executed) == (1, 1)
    assert "trial emphysema_extent-scratch-1-0 failed: scan" in summary.messages[0]
    assert "has no shard" in summary.messages[0]
    for name, data in shards:
        workspace.write_bytes(data, "patches", name)
    again = sweep(workspace, cohort, small, run=RUN)
    assert (again.trials, again.executed, again.messages) == (2, 1, ())


def test_an_initialisation_without_embeddings_is_skipped(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    workspace.delete("embeddings", RUN, "patients-random.parquet")
    shared, messages = assemble(workspace, cohort, recipe(), run=RUN)
    assert set(shared.problems["survival"].features) == {"drasclr", "density"}
    assert "initialisation random is skipped" in messages[0]


def test_vectors_are_read_once_and_weights_once_a_worker(tmp_path, ray_local):
    """Counted by the store that they lie on: eight trials on two workers."""
    local, cohort = build(tmp_path, subjects=20)
    publish(local, RUN)
    store = ObjectStore()
    try:
        store.load(tmp_path, "ws")
        workspace = Workspace(store.uri("ws"))
        config = recipe(
            initialisations=["drasclr", "finetune"], tasks=["emphysema_extent"], fractions=[0.5, 1.0], seeds=2
        )
        assemble(workspace, cohort, config, run=RUN)  # once without trials: what the driver reads
        alone, trained = reads(store, "patients-drasclr.parquet"), reads(store, weights.WEIGHTS)
        store.requests.clear()
        assert sweep(workspace, cohort, config, run=RUN).executed == 8
        assert reads(store, "patients-drasclr.parquet") == alone == 1
        workers = reads(store, weights.WEIGHTS) - trained
        assert 1 <= workers <= 2
        # Each worker reads a scan's patches once, for all of its trials.
        shards = [key for key in store.objects if "/patches/" in key]
        assert max(reads(store, key) for key in shards) <= 2
    finally:
        store.close()


def reads(store, part):
    """How often an object was opened: pyarrow asks for its size each time."""
    return sum(request.startswith("HEAD") and part in request for request in store.requests)
