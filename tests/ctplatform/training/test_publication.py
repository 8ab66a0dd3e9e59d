"""What a run leaves: whole, calibrated, and nothing where its encoder is not finite."""

import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.storage.layout import CARD_FILE
from ctplatform.training.loop import Loop
from drasclr import weights
from tests.ctplatform.training_world import recipe_with, training_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("publication"))


def untrained(workspace, run):
    return Loop(
        workspace, recipe_with("pretrain.max_steps=4"), run, rank=0, world=1, device=torch.device("cpu")
    )


def test_the_published_encoder_is_the_calibrated_query_encoder(workspace):
    loop = untrained(workspace, "whole")
    before = {name: value.clone() for name, value in loop.model.query.state_dict().items()}
    loop.publish()
    found = weights.load(workspace.path("pretrain", "whole"))
    published = found.state_dict()
    assert found.card["run"] == "whole"
    assert found.card["atlas_hash"] == loop.atlas.hash
    for name, value in loop.model.query.state_dict().items():
        torch.testing.assert_close(published[name], value, rtol=0, atol=0)
        assert torch.equal(value, before[name]) != ("running" in name), name


def test_an_encoder_that_is_not_finite_is_not_published(workspace):
    loop = untrained(workspace, "spoilt")
    with torch.no_grad():
        next(iter(loop.model.query.parameters())).fill_(float("nan"))
    with pytest.raises(StageError, match="not finite"):
        loop.publish()
    assert not workspace.exists("pretrain", "spoilt", "weights.safetensors")
    assert not workspace.exists("pretrain", "spoilt", CARD_FILE)
