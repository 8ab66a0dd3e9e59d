"""The control is the same in every process, and weights of another atlas are refused."""

from __future__ import annotations

import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.inference.encoders import load_encoder, random_encoder
from tests.ctplatform.training_world import run_loop


def test_the_random_encoder_is_the_same_in_every_worker(workspace, small_recipe):
    one, two = (random_encoder(workspace, small_recipe).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_of_another_atlas_are_refused(workspace, small_recipe):
    run_loop(workspace, small_recipe)
    card = workspace.read_json("pretrain", "test", "card.json")
    workspace.write_json(card | {"atlas_hash": "0" * 64}, "pretrain", "test", "card.json")
    with pytest.raises((StageError, ValueError), match="atlas"):
        load_encoder(workspace, "test", hu_window=(-1024, 240))
