"""End-to-end training: it learns what can be learned, and fine-tuning starts where the probe ends."""

import itertools

import numpy as np
import pytest
import torch

from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.dataset.splits import read_split
from ctplatform.evaluation import finetune
from ctplatform.evaluation.early_stopping import Choice
from ctplatform.evaluation.finetune import EndToEnd
from ctplatform.evaluation.objective import Objective
from ctplatform.evaluation.patch_pool import PatchPool
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import build, tiny_atlas

CONFIG = ScratchConfig(locations=2, pool=3, subjects_per_batch=6, lr=3e-3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    workspace, cohort = build(tmp_path_factory.mktemp("scratch"), subjects=30)
    scans = {subject: tuple(ids) for subject, ids in cohort.groupby("subject_id")["scan_id"]}
    pool = PatchPool(workspace, tiny_atlas().coordinates_N3, scans=scans, size=3)
    return workspace, cohort, pool


def side(cohort, subjects, task):
    labels = get_task(task).labels(cohort[cohort["subject_id"].isin(subjects)])
    return list(labels.subjects), labels.targets


def fit(task, subjects, targets, pool, *, steps, seed=0, **options):
    model = EndToEnd(
        get_task(task), encoder=EncoderConfig(experts=1), config=CONFIG, steps=steps, seed=seed, **options
    )
    return model.fit(pool, subjects, targets)


@pytest.fixture(scope="module")
def pretrained(world):
    """An encoder that has seen these patches, not much."""
    workspace, cohort, pool = world
    train = side(cohort, read_split(workspace).train, "gold_stage")
    return fit("gold_stage", *train, pool, steps=3).encoder


def test_learns_density_from_patches(world):
    workspace, cohort, pool = world
    split = read_split(workspace)
    train, test = (side(cohort, subjects, "emphysema_extent") for subjects in (split.train, split.test))
    model = fit("emphysema_extent", *train, pool, steps=20)
    assert np.mean(model.losses_[-3:]) < 0.5 * np.mean(model.losses_[:3])
    assert METRICS["spearman"].value(test[1], model.predict(pool, test[0])) > 0.7


@pytest.mark.parametrize("task", ["gold_stage", "survival", "exacerbation_count"])
def test_other_losses_go_down_too(world, task):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, task)
    model = fit(task, subjects, targets, pool, steps=8)
    predicted = model.predict(pool, subjects[:6])
    assert np.isfinite(predicted).all()
    assert np.mean(model.losses_[-3:]) < np.mean(model.losses_[:3])


@pytest.mark.parametrize(
    "task", ["emphysema_extent", "gold_stage", "emphysema", "survival", "exacerbation_count"]
)
def test_without_a_step_fine_tuning_is_the_frozen_probe(world, pretrained, task):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, task)
    model = fit(task, subjects, targets, pool, steps=0, pretrained=pretrained)
    x_train, x_test = (model.features(pool, who) for who in (subjects, subjects[:8]))
    probe = get_task(task).probe().fit(x_train, targets, seed=0)
    expected = get_task(task).clip(probe.predict(x_test))
    assert model.predict(pool, subjects[:8]) == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_fine_tuning_goes_down_from_there_and_leaves_the_pretrained_weights_alone(world, pretrained):
    workspace, _, pool = world
    subjects = [subject for subject in read_split(workspace).train if len(pool.scans[subject]) == 1][:8]
    targets = Targets(np.random.default_rng(0).random(8))  # noise, which a ridge does not follow all the way
    before = {name: tensor.clone() for name, tensor in pretrained.state_dict().items()}
    everything = CONFIG.model_copy(update={"locations": 3, "subjects_per_batch": len(subjects)})
    model = EndToEnd(
        get_task("emphysema_extent"),
        encoder=EncoderConfig(experts=1),
        config=everything,
        steps=4,
        seed=0,
        pretrained=pretrained,
        lr=3e-5,
    )
    for _ in model.train(pool, subjects, targets):
        pass
    probe = get_task("emphysema_extent").probe()
    x_NP = EndToEnd.features(model_of(pretrained), pool, subjects)
    error = np.square(probe.fit(x_NP, targets, seed=0).predict(x_NP) - targets.value_N).mean()
    assert model.losses_[0] == pytest.approx(error / targets.value_N.var(), rel=0.02)
    assert model.losses_[-1] < model.losses_[0]
    after = model.encoder.state_dict()
    for name, tensor in before.items():
        assert torch.equal(pretrained.state_dict()[name], tensor)
        kept = any(word in name for word in ("running", "tracked", "head"))
        assert torch.equal(after[name], tensor) == kept


def model_of(encoder):
    task = get_task("emphysema_extent")
    return EndToEnd(
        task, encoder=EncoderConfig(experts=1), config=CONFIG, steps=0, seed=0, pretrained=encoder
    )


def test_the_seed_fixes_everything(world):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train[:6], "emphysema_extent")
    a, b, c = (
        fit("emphysema_extent", subjects, targets, pool, steps=2, seed=seed).predict(pool, subjects[:2])
        for seed in (1, 1, 2)
    )
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()


def test_fine_tuning_that_would_diverge_ends_at_the_probe(world, pretrained):
    """A learning rate ten thousand times too large: left-out subjects show it, and no step is taken."""
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, "emphysema_extent")
    probe = fit("emphysema_extent", subjects, targets, pool, steps=0, pretrained=pretrained)
    model = fit("emphysema_extent", subjects, targets, pool, steps=8, pretrained=pretrained, lr=1.0)
    assert model.choice_.steps == 0
    assert model.choice_.validated == len(subjects)
    np.testing.assert_array_equal(model.predict(pool, subjects[:4]), probe.predict(pool, subjects[:4]))


def test_the_last_run_takes_the_chosen_steps_and_all_runs_share_the_budget(world, pretrained, monkeypatch):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, "emphysema_extent")
    losses = []

    def second_mark(run, rows, marks):
        losses.extend(run(inside, outside) for inside, outside in rows)
        return Choice(marks[1], 0.1, 0.01, len(subjects))

    monkeypatch.setattr(finetune, "chosen_steps", second_mark)
    done = []
    model = EndToEnd(
        get_task("emphysema_extent"),
        encoder=EncoderConfig(experts=1),
        config=CONFIG,
        steps=13,
        seed=0,
        pretrained=pretrained,
    ).fit(pool, subjects, targets, on_step=done.append)
    assert [found.shape[0] for found in losses] == [4, 4, 4]  # the probe and three marks
    assert sum(found.shape[1] for found in losses) == len(subjects)
    assert done == list(
        range(1, 3 * 3 + 2 + 1)
    )  # a quarter of 13 steps in each of three folds, then two of three
    assert len(model.losses_) == 2
    # The same two steps as those of a plain run with the same schedule.
    plain = EndToEnd(
        get_task("emphysema_extent"),
        encoder=EncoderConfig(experts=1),
        config=CONFIG,
        steps=3,
        seed=0,
        pretrained=pretrained,
    )
    for step in plain.train(pool, subjects, targets):
        if step == 2:
            break
    assert plain.losses_ == model.losses_


def test_a_shift_of_all_features_moves_no_score(world, pretrained):
    """What training changes for all subjects alike is centred away, in training and in prediction."""
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, "emphysema_extent")
    model = fit("emphysema_extent", subjects, targets, pool, steps=0, pretrained=pretrained)
    before = model.predict(pool, subjects[:5])
    patches = pool.batch([pool.scans[subject][0] for subject in subjects[:4]], np.arange(3))
    score = model._score(patches, pool.coordinates_L3)
    grouped = model.encoder.grouped
    model.encoder.grouped = lambda *arguments: grouped(*arguments) + 5.0
    torch.testing.assert_close(model._score(patches, pool.coordinates_L3), score, atol=2e-3, rtol=1e-3)
    model._centre(pool, subjects)
    assert model.predict(pool, subjects[:5]) == pytest.approx(before, abs=2e-3)


def test_deeper_layers_learn_more_slowly(world, pretrained):
    model = EndToEnd(
        get_task("emphysema_extent"),
        encoder=EncoderConfig(experts=1),
        config=CONFIG,
        steps=1,
        seed=0,
        pretrained=pretrained,
        tuning=FinetuneConfig(lr=1e-2, layer_decay=0.5),
    )
    model.objective = Objective(get_task("emphysema_extent"), Targets(np.arange(6.0)))
    groups = model._parameters()
    rates = [group["lr"] for group in groups[1:]]
    assert rates[-1] == pytest.approx(1e-2)
    assert all(lower == pytest.approx(upper / 2) for lower, upper in itertools.pairwise(rates))
    counted = sum(p.numel() for group in groups for p in group["params"])
    projection = {id(p) for layer in (model.encoder.layers,) for p in layer.parameters()}
    assert counted == sum(p.numel() for p in model.encoder.parameters() if id(p) in projection) + 129
