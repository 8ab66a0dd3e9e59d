"""Fine-tuned networks that are kept after a sweep, and what they predict."""

import numpy as np
import pytest

import drasclr
from ctplatform.errors import StageError
from ctplatform.evaluation.kept_networks import network_features, network_files
from ctplatform.evaluation.sweep import sweep
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


def test_the_encoder_s_folder_states_its_own_weights(tmp_path):
    from drasclr.encoder import Encoder

    encoder = Encoder(1).eval()
    encoder.card = {"hu_window": [-1024, 240], "pooling": "mean_std", "provenance": {"scans": 3}}
    files = network_files(encoder, encoder, task="mine")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    card = drasclr.load(tmp_path).card
    assert card["provenance"] == {"scans": 3, "fine_tuned_on": "mine"}
    assert card["pooling"] == "mean"
    source = {"encoder": "drasclr", "weights_sha256": "a", "statistics_sha256": "b"}
    features = network_features(source, files, pooling="none")
    assert features["weights_sha256"] == card["files"]["weights.safetensors"]
    assert features["started_from_sha256"] == "a"
    assert "statistics_sha256" not in features
