"""Through Ray Train: two workers compute what one process does, and the run is probed and tracked."""

from __future__ import annotations

import contextlib

import numpy as np
import psutil
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.inference.encoders import load_encoder
from ctplatform.training import pretrain as pretraining
from ctplatform.training.loop import Loop
from ctplatform.training.runs import read_metrics
from tests.conftest import SMALL
from tests.ctplatform.training_world import run_loop


def recipe_with(*overrides):
    return load_recipe("demo", [*SMALL, *overrides])


def test_two_workers_are_one_with_the_same_batch(workspace, ray_local):
    """Without normalisation over the batch, two gloo workers and one process compute the same, to rounding."""
    exact = ("pretrain.encoder.norm=group", "pretrain.batch_negatives=false")
    keeping = set()

    def look(metrics):
        for process in psutil.Process().children(recursive=True):
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
        [line["loss"] for line in lines], [line["loss"] for line in single.log.lines], atol=1e-3
    )
    # The same command again trains nothing.
    assert not pretraining.pretrain(workspace, recipe_with(*exact, "pretrain.num_workers=1")).trained
    assert load_encoder(workspace, summary.run, hu_window=(-1024, 240)).card["provenance"]["steps"] == 6


def test_a_pretraining_run_is_probed_and_tracked(workspace, prepared, ray_local):
    """Through Ray Train, from the labels of a cohort table to the curve and the event files."""
    light = ("pretrain.beta=0", "pretrain.augment=false", "pretrain.locations_per_batch=6")
    alone = Loop(workspace, recipe_with(*light), "run", rank=0, world=1, device=torch.device("cpu"))
    epoch = alone.steps_per_epoch
    recipe = recipe_with(
        *light, f"pretrain.max_steps={epoch}", "pretrain.num_workers=1", "pretrain.log_every=50"
    )
    summary = pretraining.pretrain(workspace, recipe, cohort=prepared[1])
    lines = read_metrics(workspace, summary.run)
    assert "probe" in lines[-1]
    assert lines[-1]["step"] == epoch
    assert 0 <= lines[-1]["data_wait"] <= 1
    assert workspace.exists("pretrain", summary.run, "probe.json")
    assert len(workspace.files("pretrain", summary.run, "tensorboard")) == 1
    stored = workspace.read_json("pretrain", summary.run, "config.json")
    assert stored == recipe.model_dump(mode="json")
