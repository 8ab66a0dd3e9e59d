"""The probe sees training subjects only, changes nothing of the run, and tells signal from noise."""

from __future__ import annotations

import contextlib
import copy
import shutil

import numpy as np
import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.dataset.splits import read_split
from ctplatform.errors import ConfigError, StageError
from ctplatform.metrics.scores import Targets
from ctplatform.tasks import get_task
from ctplatform.training.loop import Loop
from ctplatform.training.online_probe import OnlineProbe, ProbeSubjects, cross_validated, select_subjects
from tests.conftest import SMALL

#: Few and cheap steps an epoch.
LIGHT = ("pretrain.beta=0", "pretrain.augment=false", "pretrain.locations_per_batch=6")


class Killed(Exception):
    pass


def kill(loop: Loop) -> None:
    raise Killed


def recipe_with(*overrides):
    return load_recipe("demo", [*SMALL, *LIGHT, *overrides])


def loop_of(workspace, recipe, selection=None) -> Loop:
    loop = Loop(workspace, recipe, "run", rank=0, world=1, device=torch.device("cpu"))
    if selection:
        loop.probe = OnlineProbe(workspace, recipe, "run", selection, loop.atlas)
    return loop


def test_only_training_subjects_are_used(prepared, small_recipe):
    workspace, cohort = prepared
    split = read_split(workspace)
    selection = select_subjects(workspace, small_recipe, cohort)
    owner = cohort.set_index("scan_id")["subject_id"]
    assert selection.task == "emphysema_extent"
    assert {owner[scan] for scan in selection.scans} == set(split.train)
    assert len(selection.scans) == len(split.train)  # one scan each
    label = cohort.set_index("scan_id")["emphysema_extent"]
    np.testing.assert_allclose(selection.value, [label[scan] for scan in selection.scans])
    # Whatever the test subjects' labels are, even none or nonsense: the same selection.
    spoilt = cohort.copy()
    spoilt.loc[spoilt["subject_id"].isin(split.test), "emphysema_extent"] = np.nan
    assert select_subjects(workspace, small_recipe, spoilt) == selection


def test_labels_decide_whether_and_of_what_there_is_a_probe(prepared, small_recipe):
    workspace, cohort = prepared
    bare = cohort.drop(columns=["emphysema_extent"])
    assert select_subjects(workspace, small_recipe, bare).task == "gold_stage"
    assert select_subjects(workspace, small_recipe, cohort[["scan_id", "subject_id", "path"]]) is None
    assert select_subjects(workspace, small_recipe, None) is None
    assert select_subjects(workspace, recipe_with("pretrain.probe.every_epochs=0"), cohort) is None
    with pytest.raises(StageError, match="no column 'emphysema_extent'"):
        select_subjects(workspace, recipe_with("pretrain.probe.task=emphysema_extent"), bare)
    maps = cohort.assign(nodule_map="x")
    assert select_subjects(workspace, recipe_with("sweep.tasks=[nodules]"), maps) is None
    with pytest.raises(StageError, match="nodules has label maps"):
        select_subjects(workspace, recipe_with("pretrain.probe.task=nodules"), maps)
    with pytest.raises(ConfigError, match="no task 'mood'"):
        select_subjects(workspace, recipe_with("pretrain.probe.task=mood"), cohort)


def test_the_run_is_the_same_with_and_without_a_probe(workspace, prepared):
    """Losses, weights and random numbers; and a resumed run repeats the scores of the one that was not cut off."""
    epoch = loop_of(workspace, recipe_with()).steps_per_epoch
    recipe = recipe_with(f"pretrain.max_steps={epoch + 2}", "pretrain.epochs=2", "pretrain.log_every=4")
    selection = select_subjects(workspace, recipe, prepared[1])
    probed = loop_of(workspace, recipe, ProbeSubjects(**selection.plain()))
    probed.run()
    shutil.rmtree(workspace.path("pretrain", "run"), ignore_errors=True)
    plain = loop_of(workspace, recipe)
    plain.run()
    for name, value in plain.model.state_dict().items():
        assert torch.equal(probed.model.state_dict()[name], value), name
    scores = {line["step"]: line["probe"] for line in probed.log.lines if "probe" in line}
    assert list(scores) == [epoch]
    losses = {line["step"]: line["loss"] for line in probed.log.lines}
    assert {line["step"]: line["loss"] for line in plain.log.lines} == losses
    # Cut off before the end of the epoch, the run that goes on finds the same score.
    shutil.rmtree(workspace.path("pretrain", "run"))
    with contextlib.suppress(Killed):
        loop_of(workspace, recipe, selection).run(on_checkpoint=kill)
    resumed = loop_of(workspace, recipe, selection)
    resumed.resume()
    assert 0 < resumed.step < epoch
    resumed.run()
    assert {line["step"]: line["probe"] for line in resumed.log.lines if "probe" in line} == scores
    about = workspace.read_json("pretrain", "run", "probe.json")
    assert (about["task"], about["metric"], about["subjects"]) == ("emphysema_extent", "spearman", 5)
    assert -1 <= about["start"] <= 1
    assert -1 <= about["density"] <= 1


def test_embedding_leaves_the_encoder_alone_and_the_parts_do_not_matter(workspace, prepared, monkeypatch):
    recipe = recipe_with()
    selection = select_subjects(workspace, recipe, prepared[1])
    loop = loop_of(workspace, recipe, selection)
    before = copy.deepcopy(loop.model.query.state_dict())
    training, state = loop.model.query.training, torch.random.get_rng_state()
    vectors = loop.probe.embed(loop.model.query)
    assert vectors.shape == (len(selection.scans), 128)
    assert vectors.std(0).max() > 0
    assert loop.model.query.training == training
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in before.items():
        assert torch.equal(loop.model.query.state_dict()[name], value), name
    # A subject's vector is the mean of its own patches', computed by themselves.
    encoder = copy.deepcopy(loop.model.query)
    monkeypatch.setattr("drasclr.norm.recalibrate", lambda *_: None)
    vectors = loop.probe.embed(encoder)
    alone = ProbeSubjects(selection.task, selection.scans[2:3], selection.value[2:3])
    one = OnlineProbe(workspace, recipe, "run", alone, loop.atlas).embed(encoder)
    np.testing.assert_allclose(one[0], vectors[2], atol=1e-5)


@pytest.mark.parametrize("name", ["emphysema_extent", "gold_stage", "survival"])
def test_cross_validation_tells_signal_from_noise(name):
    task, rng = get_task(name), np.random.default_rng(0)
    truth = rng.uniform(0, 1, 60)
    targets = {
        "emphysema_extent": Targets(truth),
        "gold_stage": Targets(np.floor(truth * 5)),
        "survival": Targets(np.exp(2 - 3 * truth), rng.uniform(size=60) < 0.7),
    }[name]
    noise = rng.normal(size=(60, 40))
    signal = noise.copy()
    signal[:, :10] += 3 * truth[:, None]
    chance = task.scores[0].chance(targets, targets)
    good, none = (cross_validated(task, x, targets, seed=0) for x in (signal, noise))
    assert good > chance + 0.25
    assert abs(none - chance) < 0.25
