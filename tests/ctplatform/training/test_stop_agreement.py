"""A request on one rank stops all of them at one step, with a checkpoint of it; the run resumes to the same end."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as mp

from ctplatform.storage.layout import PRETRAIN
from ctplatform.storage.workspace import Workspace
from ctplatform.training.checkpoints import Checkpoints
from ctplatform.training.loop import Loop
from ctplatform.training.stop_agreement import Agreement, Interrupted
from tests.ctplatform.training_world import recipe_with, same_model, train, training_workspace
from tests.gloo import run_group

SETS = ("pretrain.checkpoint_every=100",)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("interrupted"))


def test_a_single_process_stops_after_its_step(workspace):
    recipe = recipe_with(*SETS)
    loop = Loop(workspace, recipe, "alone", rank=0, world=1, device=torch.device("cpu"))
    loop.interrupted = lambda: loop.step == 3
    with pytest.raises(Interrupted) as stop:
        loop.run()
    assert stop.value.step == 3
    assert not workspace.exists(PRETRAIN, "alone", "weights.safetensors")
    newest = Checkpoints(workspace, PRETRAIN, "alone", config=recipe.pretrain).newest()
    assert newest.step == 3, "no step is lost"
    resumed, whole = train(workspace, recipe, "alone"), train(workspace, recipe, "whole")
    assert resumed["losses"] == whole["losses"]
    same_model(whole, resumed, tolerance=0)


def stop_together(rank, uri, results):
    loop = Loop(Workspace(uri), recipe_with(*SETS), "pair", rank=rank, world=2, device=torch.device("cpu"))
    loop.interrupted = lambda: rank == 1 and loop.step == 2
    try:
        loop.run()
    except Interrupted as stop:
        results.put((rank, stop.step))


def test_ranks_stop_at_the_same_step(workspace):
    results = mp.get_context("spawn").SimpleQueue()
    run_group(stop_together, 2, workspace.uri, results)
    assert sorted(results.get() for _ in range(2)) == [(0, 3), (1, 3)], "one step after the request, on both"
    newest = Checkpoints(workspace, PRETRAIN, "pair", config=recipe_with().pretrain).newest()
    assert newest.step == 3


def test_one_process_needs_no_agreement():
    agreement = Agreement(1)
    assert [agreement.reached(value) for value in (False, True)] == [False, True]
