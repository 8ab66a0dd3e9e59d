"""Resumed == uninterrupted, distributed == single, and the weights that come out carry what they need."""

from __future__ import annotations

import contextlib

import numpy as np
import psutil
import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.dataset.splits import read_split
from ctplatform.errors import StageError
from ctplatform.inference.embed import Embedder, embed, pool
from ctplatform.inference.encoders import load_encoder, random_encoder
from ctplatform.training import pretrain as pretraining
from ctplatform.training.loop import Loop
from ctplatform.training.model import build_model
from ctplatform.training.runs import read_metrics, run_name, training_rows
from tests.conftest import SMALL


def recipe_with(*overrides):
    return load_recipe("demo", [*SMALL, *overrides])


def run_loop(workspace, recipe, *, run="test", stop_at=None):
    """A loop in this process that goes on where the run stands; stops after a checkpoint like a killed worker."""
    loop = Loop(workspace, recipe, run, rank=0, world=1, device=torch.device("cpu"))
    loop.resume()

    class Killed(Exception):
        pass

    def checkpoint(loop):
        if loop.step == stop_at:
            raise Killed

    with contextlib.suppress(Killed):
        loop.run(on_checkpoint=checkpoint)
    return loop


def test_resumed_is_uninterrupted(workspace, small_recipe):
    whole = run_loop(workspace, small_recipe, run="whole")
    run_loop(workspace, small_recipe, stop_at=4)
    resumed = run_loop(workspace, small_recipe)
    assert whole.step == resumed.step == 6
    curve = [line["loss"] for line in whole.lines]
    assert len(curve) == 6
    assert [line["loss"] for line in resumed.lines] == curve
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    a, b = whole.model.memory.state_dict(), resumed.model.memory.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])), key


def test_two_workers_are_one_with_the_same_batch(workspace, ray_local):
    """Without normalisation over the batch, two gloo workers and one process compute the same, to rounding."""
    exact = ("pretrain.encoder.norm=group", "pretrain.batch_negatives=false")
    keeping = set()

    def look(metrics):
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if pretraining.MALLOC.items() <= process.environ().items():
                    keeping.add(process.pid)

    summary = pretraining.pretrain(workspace, recipe_with(*exact, "pretrain.num_workers=2"), on_progress=look)
    assert summary.trained
    assert len(keeping) >= 2  # both workers were started with an allocator that keeps freed memory
    assert summary.steps == 6
    single = run_loop(workspace, recipe_with(*exact))
    pair = load_encoder(workspace, summary.run, hu_window=(-1024, 240))
    for name, value in single.model.query.state_dict().items():
        torch.testing.assert_close(pair.state_dict()[name], value, rtol=1e-3, atol=2e-5, msg=name)
    lines = read_metrics(workspace, summary.run)
    np.testing.assert_allclose(
        [line["loss"] for line in lines], [line["loss"] for line in single.lines], atol=1e-3
    )
    # The same command again trains nothing.
    assert not pretraining.pretrain(workspace, recipe_with(*exact, "pretrain.num_workers=1")).trained
    assert load_encoder(workspace, summary.run, hu_window=(-1024, 240)).card["provenance"]["steps"] == 6


def test_training_never_sees_a_test_subject(workspace, small_recipe):
    split = read_split(workspace)
    seen = set(training_rows(workspace, small_recipe)["subject_id"])
    assert seen == set(split.train)
    assert not seen & set(split.test)


def test_the_runs_name_follows_what_matters(workspace, small_recipe):
    name = run_name(workspace, small_recipe)
    assert name == run_name(workspace, recipe_with("pretrain.num_workers=1"))
    assert name != run_name(workspace, recipe_with("pretrain.lr=0.5"))


def test_a_batch_seen_again_and_again_is_learnt(workspace):
    recipe = recipe_with(
        "pretrain.augment=false",
        "pretrain.optimizer=adamw",
        "pretrain.lr=0.0005",
        "pretrain.temperature=0.2",
        "pretrain.momentum=0",
        "pretrain.max_steps=1000",
        "pretrain.epochs=1000",
    )
    loop = Loop(workspace, recipe, "test", rank=0, world=1, device=torch.device("cpu"))
    batch = next(loop.feed.epoch(0))
    losses = []
    for _ in range(16):
        loop.model.memory.load_state_dict(build_model(recipe.pretrain, loop.atlas).memory.state_dict())
        losses.append(float(loop.train_step(batch).loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_embeddings_of_a_batch_are_those_of_each_scan(workspace, small_recipe, ray_local):
    run = "test"
    run_loop(workspace, small_recipe)
    embedder = Embedder(workspace, small_recipe, run)
    encoder = load_encoder(workspace, run, hu_window=(-1024, 240)).eval()
    scans = list(training_rows(workspace, small_recipe)["scan_id"])[:3]
    together, inside = embedder.encode(encoder, scans)
    for index, scan in enumerate(scans):
        alone, _ = embedder.encode(encoder, [scan])
        np.testing.assert_allclose(together[index], alone[0], atol=2e-5)
    assert together.shape == (3, embedder.atlas.num_locations, 128)
    assert np.isfinite(together).all()
    assert together.std(axis=0).max() > 0
    summary = embed(workspace, small_recipe, run=run)
    assert summary.done > 0
    assert embed(workspace, small_recipe, run=run).done == 0
    patients = (
        workspace.read_table("embeddings", run, "patients-drasclr.parquet").to_pandas().set_index("scan_id")
    )
    np.testing.assert_allclose(
        np.stack(patients.loc[scans, "vector"]), pool(together, inside, "mean"), atol=2e-5
    )
    random = workspace.read_table("embeddings", run, "patients-random.parquet")
    assert random.num_rows == len(patients) == summary.scans


def test_the_random_encoder_is_the_same_in_every_worker(workspace, small_recipe):
    one, two = (random_encoder(workspace, small_recipe).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_of_another_atlas_are_refused(workspace, small_recipe):
    run_loop(workspace, small_recipe)
    card = workspace.read_json("pretrain", "test", "card.json")
    workspace.write_json(card | {"atlas_hash": "0" * 64}, "pretrain", "test", "card.json")
    with pytest.raises((StageError, ValueError), match="atlas"):
        load_encoder(workspace, "test", hu_window=(-1024, 240))


def test_pooling_leaves_out_what_lies_outside():
    vectors = np.array([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]], np.float32)
    np.testing.assert_allclose(pool(vectors, np.array([[1.0, 1.0, 0.2]]), "mean"), [[2.0, 3.0]])
    both = pool(vectors, np.array([[1.0, 1.0, 0.2]]), "mean_std")
    np.testing.assert_allclose(both, [[2.0, 3.0, 1.0, 1.0]])
    np.testing.assert_allclose(pool(vectors, np.zeros((1, 3)), "mean"), vectors.mean(1))
