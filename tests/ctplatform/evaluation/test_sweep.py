"""The sweep on a workspace with a known truth, with a real local Ray."""

import numpy as np
import pytest

from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.sweep import sweep
from ctplatform.storage.workspace import Workspace
from drasclr import weights
from tests.ctplatform.evaluation_world import RUN, build, kill_trials, publish, recipe, table, times
from tests.ctplatform.objectstore import ObjectStore


@pytest.fixture(scope="module")
def swept(tmp_path_factory, ray_local):
    """A finished sweep: three tasks, four initialisations, two fractions, two seeds; two trials at a time."""
    workspace, cohort = build(tmp_path_factory.mktemp("swept"))
    seen = []
    summary = sweep(
        workspace, cohort, recipe(max_concurrent=2), run=RUN, on_progress=lambda *step: seen.append(step)
    )
    return workspace, cohort, summary, seen


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


def test_trials_whose_process_is_lost_are_begun_again(tmp_path, ray_local):
    """Killed between two trials, where Tune itself makes no second attempt."""
    workspace, cohort = build(tmp_path, with_shards=False)
    one = {"tasks": ["emphysema_extent"], "fractions": [1.0], "seeds": 2}
    config = recipe(initialisations=["drasclr", "density"], **one)
    seen, killed = [], []

    def progress(done, total):
        seen.append((done, total))
        if done in (1, 3) and len(killed) < done:
            killed.extend(kill_trials())

    summary = sweep(workspace, cohort, config, run=RUN, on_progress=progress)
    assert len(killed) == 2
    assert (summary.trials, summary.executed, summary.failed, summary.messages) == (4, 4, 0, ())
    assert seen[-1] == (4, 4)


def test_vectors_are_read_once_and_weights_once_a_worker(tmp_path, ray_local):
    """Counted by the store that they lie on: eight trials on two workers."""
    local, cohort = build(tmp_path, subjects=20)
    publish(local, RUN)
    store = ObjectStore()
    try:
        store.load(tmp_path, "ws")
        workspace = Workspace(store.uri("ws"))
        config = recipe(
            initialisations=["drasclr", "finetune"],
            tasks=["emphysema_extent"],
            fractions=[0.5, 1.0],
            seeds=2,
            max_concurrent=2,
        )
        assemble(workspace, cohort, config, run=RUN)  # once without trials: what the driver reads
        alone, trained = reads(store, "patients-drasclr.parquet"), reads(store, weights.WEIGHTS)
        store.requests.clear()
        assert sweep(workspace, cohort, config, run=RUN).executed == 8
        assert reads(store, "patients-drasclr.parquet") == alone == 1
        # For the digest in the cards of the heads that are kept: it exists, and what it is; and for the network.
        kept = 3
        workers = reads(store, weights.WEIGHTS) - trained - kept
        assert 1 <= workers <= 2
        # Each worker reads a scan's patches once, for all of its trials; so does the task of the network that is kept.
        shards = [key for key in store.objects if "/patches/" in key]
        assert max(reads(store, key) for key in shards) <= 2 + 1
    finally:
        store.close()


def reads(store, part):
    """How often an object was opened: pyarrow asks for its size each time."""
    return sum(request.startswith("HEAD") and part in request for request in store.requests)
