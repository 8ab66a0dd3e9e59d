"""The from-scratch baseline: it learns what can be learned, says the same twice, and reads each patch once."""

import numpy as np
import pytest
import torch

from ctplatform import scratch
from ctplatform.config import EncoderConfig, ScratchConfig
from ctplatform.scratch import Objective, PatchPool, Scratch
from ctplatform.splits import read_split
from ctplatform.statistics import METRICS, Targets
from ctplatform.tasks import get_task
from ctplatform.tasks.survival import partial_likelihood
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


def fit(task, subjects, targets, pool, *, steps, seed=0):
    model = Scratch(get_task(task), encoder=EncoderConfig(experts=1), config=CONFIG, steps=steps, seed=seed)
    return model.fit(pool, subjects, targets)


def test_learns_density_from_patches(world):
    workspace, cohort, pool = world
    split = read_split(workspace)
    train, test = (side(cohort, subjects, "emphysema_extent") for subjects in (split.train, split.test))
    model = fit("emphysema_extent", *train, pool, steps=20)
    assert np.mean(model.losses_[-3:]) < 0.5 * np.mean(model.losses_[:3])
    assert METRICS["spearman"].value(test[1], model.predict(pool, test[0])) > 0.7


@pytest.mark.parametrize("task", ["gold_stage", "survival"])
def test_other_losses_go_down_too(world, task):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train, task)
    model = fit(task, subjects, targets, pool, steps=8)
    predicted = model.predict(pool, subjects[:6])
    assert np.isfinite(predicted).all()
    assert np.mean(model.losses_[-3:]) < np.mean(model.losses_[:3])


def test_the_seed_fixes_everything(world):
    workspace, cohort, pool = world
    subjects, targets = side(cohort, read_split(workspace).train[:6], "emphysema_extent")
    a, b, c = (
        fit("emphysema_extent", subjects, targets, pool, steps=2, seed=seed).predict(pool, subjects[:2])
        for seed in (1, 1, 2)
    )
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()


def test_patches_are_read_once_a_process(world, monkeypatch):
    workspace, _, pool = world
    fresh = PatchPool(workspace, tiny_atlas().coordinates_N3, scans=pool.scans, size=2)
    first = fresh.batch(["scan000", "scan001"], np.array([0, 1]))
    monkeypatch.setattr(scratch, "read_patches", lambda *_: pytest.fail("read again"))
    assert torch.equal(fresh.batch(["scan000", "scan001"], np.array([0, 1])), first)
    assert first.shape == (2, 2, 1, 32, 32, 32)


def test_the_cache_has_a_limit(world, monkeypatch):
    pool = world[2]
    scratch._cache.clear()
    monkeypatch.setattr(scratch, "CACHE_BYTES", 3 * 3 * 32**3 * 2)
    for number in range(6):
        pool.scan(f"scan{number:03d}")
    assert sum(array.nbytes for array in scratch._cache.values()) <= 3 * 3 * 32**3 * 2


def test_cox_loss_is_the_partial_likelihood():
    rng = np.random.default_rng(0)
    targets = Targets(rng.integers(1, 9, 20).astype(float), rng.random(20) < 0.5)
    score = rng.normal(size=20)
    objective = Objective(get_task("survival"), targets)
    loss = objective(torch.from_numpy(score).float(), torch.arange(20))
    assert float(loss) == pytest.approx(-partial_likelihood(score, targets) / targets.event_N.sum(), rel=1e-4)


def test_a_batch_without_events_teaches_nothing():
    objective = Objective(get_task("survival"), Targets(np.arange(1.0, 9), np.arange(8) > 5))
    score = torch.zeros(3, requires_grad=True)
    objective(score, torch.arange(3)).backward()
    assert score.grad.tolist() == [0, 0, 0]


def test_untrained_scores_mean_the_median_class():
    stage = np.repeat([0.0, 1.0, 2.0, 4.0], [3, 9, 2, 1])
    objective = Objective(get_task("gold_stage"), Targets(stage))
    assert objective.decode(np.zeros(2)).tolist() == [1.0, 1.0]
    assert objective.decode(np.array([-50.0, 50.0])).tolist() == [0.0, 4.0]
