"""Fine-tuned networks that are kept after a sweep, and what they predict."""

import numpy as np
import pytest

import drasclr
from ctplatform.errors import StageError
from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.kept_networks import NetworkCandidate
from ctplatform.evaluation.models import patch_pool
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.evaluation.sweep import sweep
from ctplatform.evaluation.trained_network import all_labels
from ctplatform.evaluation.trial import evaluate
from ctplatform.inference.kept_model import read_model
from ctplatform.inference.predict import predict_workspace
from tests.ctplatform.evaluation_world import RUN, build, publish, recipe, table

TASKS = ["emphysema_extent", "gold_stage", "survival"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory, ray_local):
    """A sweep of three tasks whose encoder is fine-tuned, with its models."""
    workspace, cohort = build(tmp_path_factory.mktemp("networks"))
    publish(workspace, RUN)
    steps = {"max_steps": 8, "locations": 1, "pool": 2, "subjects_per_batch": 4}
    settings = recipe(
        tasks=TASKS, initialisations=["drasclr", "finetune"], fractions=[1.0], seeds=1, scratch=steps
    )
    summary = sweep(workspace, cohort, settings, run=RUN)
    return workspace, cohort, settings, summary


def folder(workspace, name: str) -> str:
    return workspace.path("evaluation", RUN, "models", name)


def test_a_network_predicts_what_the_sweep_s_trial_does(kept):
    workspace, *_, summary = kept
    assert not [message for message in summary.messages if "kept" in message]
    assert not workspace.folders("evaluation", RUN, "networks")
    trials = table(workspace, "predictions")
    for task in TASKS:
        model = read_model(folder(workspace, f"{task}-finetune"))
        encoder = drasclr.load(model.encoder)
        found = predict_workspace(workspace, model, encoder=encoder)
        rows = trials[(trials["task"] == task) & (trials["initialisation"] == "finetune")]
        rows = rows[rows["subject_id"] != "sub000"].set_index(
            "scan_id"
        )  # two scans: its trial is of their mean
        assert len(rows) > 10
        mine = found.set_index("scan_id").loc[rows.index]
        np.testing.assert_allclose(mine["prediction"], rows["prediction"], rtol=1e-4, atol=1e-4)
    assert (np.diff(mine.filter(like="survival_").to_numpy(), axis=1) <= 0).all()


def test_the_card_says_how_it_was_trained_and_validated(kept):
    workspace, cohort, settings, _ = kept
    cards = {
        name: read_model(folder(workspace, f"emphysema_extent-{name}")).card
        for name in ("drasclr", "finetune")
    }
    network = cards["finetune"]
    assert network["format"] == "drasclr-network-1"
    assert network["features"]["encoder"] == "own"
    assert network["features"]["started_from_sha256"] == cards["drasclr"]["features"]["weights_sha256"]
    assert network["selection"]["folds"] == 3
    assert network["calibration"]["half_width"] > 0
    assert "24 training subjects in 3 folds" in network["calibration"]["basis"]
    assert sorted(card["selection"]["best"] for card in cards.values()) == [False, True]
    assert {score["n_test"] for score in network["scores"]} == {16}
    path = workspace.path("evaluation", RUN, "models", "emphysema_extent-finetune", "card.json")
    changed = workspace.fs.get_file_info(path).mtime_ns
    assert sweep(workspace, cohort, settings, run=RUN).executed == 0
    assert workspace.fs.get_file_info(path).mtime_ns == changed
    # Another version of the software completes the card and leaves the network as it is.
    name = ("evaluation", RUN, "models", "emphysema_extent-finetune")
    head = workspace.fs.get_file_info(workspace.path(*name, "head.safetensors")).mtime_ns
    workspace.write_json(
        {**workspace.read_json(*name, "card.json"), "fingerprint": "older"}, *name, "card.json"
    )
    assert sweep(workspace, cohort, settings, run=RUN).executed == 0
    assert workspace.read_json(*name, "card.json") == network
    assert workspace.fs.get_file_info(workspace.path(*name, "head.safetensors")).mtime_ns == head


def test_another_atlas_is_refused(kept, tmp_path):
    workspace, *_ = kept
    model = read_model(folder(workspace, "survival-finetune"))
    other, _ = build(tmp_path / "other", subjects=12)
    encoder = drasclr.load(model.encoder)
    assert len(predict_workspace(other, model, encoder=encoder)) == 13
    atlas = other.read_json("atlas", "atlas.json")
    other.write_json(atlas | {"patch_size": 31}, "atlas", "atlas.json")
    with pytest.raises(StageError, match="does not fit"):
        predict_workspace(other, model, encoder=encoder)


def test_the_network_of_the_trial_is_kept_and_not_trained_again(tmp_path, monkeypatch):
    workspace, cohort = build(tmp_path / "workspace", subjects=16)
    publish(workspace, RUN)
    steps = {"max_steps": 2, "locations": 1, "pool": 1, "subjects_per_batch": 4}
    settings = recipe(tasks=["gold_stage"], initialisations=["finetune"], fractions=[1.0], scratch=steps)
    context, _ = assemble(workspace, cohort, settings, run=RUN)
    trial = evaluate(context, all_labels("gold_stage"))
    candidate = NetworkCandidate(context, "gold_stage", "finetune", {"weights_sha256": "a"}, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(SubjectProblem, "predict", None)
        files = candidate.fit().files(candidate.card())
    for name, data in files.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(data)
    model = read_model(tmp_path / "model")
    problem = context.problems["gold_stage"]
    pool = patch_pool(context.training, problem.scans)
    x_SLP = pool.features(drasclr.load(model.encoder), problem.test_subjects)
    np.testing.assert_array_equal(pool.locations_L, model.locations_L)
    np.testing.assert_array_equal(model.head.predict(x_SLP.mean(1)), trial.outcome)
    # A sweep of an older version has left no network: what is trained then is the same.
    workspace.delete("evaluation", RUN, "networks")
    np.testing.assert_allclose(model.head.weights_P, candidate.trained().tensors["weights_P"], rtol=1e-6)
