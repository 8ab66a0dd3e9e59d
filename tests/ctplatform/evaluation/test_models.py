"""Settings of end-to-end training and the encoders that it starts from."""

import pytest
import torch

from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.evaluation.models import (
    Encoders,
    Training,
    end_to_end,
    patch_pool,
    training_steps,
)
from ctplatform.inference.encoders import weights_digest
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import RUN, build, publish


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    workspace, _ = build(tmp_path_factory.mktemp("models"), subjects=4)
    publish(workspace, RUN)
    encoders = Encoders(
        workspace, RUN, EncoderConfig(experts=1), (-1024, 240), weights_digest(workspace, RUN)
    )
    return Training(encoders, ScratchConfig(lr=3e-3, pool=2, locations=1), FinetuneConfig(lr=7e-5))


@pytest.mark.parametrize(("most", "expected"), [(None, 3 * 4), (5, 5), (100, 12)])
def test_steps_are_passes_over_all_subjects_up_to_a_limit(most, expected):
    assert training_steps(ScratchConfig(epochs=3, subjects_per_batch=4, max_steps=most), 13) == expected


def test_a_copy_of_the_runs_encoder_is_trained(training):
    pretrained, copy = training.encoders.pretrained(), training.encoders.initial("finetune")
    assert training.encoders.pretrained() is pretrained
    assert copy is not pretrained
    for a, b in zip(pretrained.parameters(), copy.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b


def test_random_weights_come_from_torchs_generator(training):
    torch.manual_seed(3)
    a = training.encoders.initial("scratch")
    torch.manual_seed(3)
    b = training.encoders.initial("scratch")
    c = training.encoders.initial("scratch")
    first = [next(encoder.parameters()) for encoder in (a, b, c)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_models_take_their_initialisations_learning_rate_unless_one_was_chosen(training):
    task = get_task("emphysema_extent")
    assert training.config("scratch").lr == 3e-3
    assert training.config("finetune").lr == 7e-5
    for initialisation, lr in (("scratch", 3e-3), ("finetune", 7e-5)):
        model = end_to_end(task, training, initialisation=initialisation, steps=1, seed=0)
        assert model.lr == lr
        chosen = end_to_end(
            task, training, initialisation=initialisation, steps=1, seed=0, lr=0.5, weight_decay=0.25
        )
        assert (chosen.lr, chosen.weight_decay) == (0.5, 0.25)


def test_the_pool_has_the_recipes_locations(training):
    pool = patch_pool(training, {"sub001": ("scan002",)})
    assert pool.locations_L.tolist() == [0, 2]  # evenly spread over the three of the atlas
    assert pool.hu_window == (-1024, 240)


def test_the_digest_of_weights_changes_with_them(training):
    encoders = training.encoders
    publish(encoders.workspace, "other", seed=1)
    assert weights_digest(encoders.workspace, "other") != encoders.digest
