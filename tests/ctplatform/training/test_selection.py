"""With `best_by: probe` the best encoder is published, and patience ends the run; resumed is uninterrupted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.storage.layout import CARD_FILE, PRETRAIN, WEIGHTS_FILE
from ctplatform.training.loop import Loop
from ctplatform.training.runs import run_name
from ctplatform.training.selection import Selection
from tests.ctplatform.training_world import SELECTING, recipe_with, run_loop, training_workspace


def offered(scores: list[float], *, patience: int | None = None, higher: bool = True) -> Selection:
    selection = Selection(patience=patience)
    for number, score in enumerate(scores, 1):
        encoder = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(encoder.weight, number)
        selection.offer(10 * number, score, encoder, higher_is_better=higher)
    return selection


@pytest.mark.parametrize(
    ("scores", "higher", "step", "since"),
    [
        ([0.1, 0.3, 0.2], True, 20, 1),
        ([0.1, 0.3, 0.2], False, 10, 2),
        ([0.3, 0.3], True, 10, 1),
        ([math.nan, -0.5, math.nan], True, 20, 1),
        ([math.nan, math.nan], True, 0, 2),
    ],
)
def test_the_first_of_the_best_is_selected(scores, higher, step, since):
    selection = offered(scores, higher=higher)
    assert (selection.step, selection.since, selection.probes) == (step, since, len(scores))
    assert bool(selection.weights) == bool(step)
    if step:
        assert float(selection.weights["weight"]) == step / 10, "the state at that time, not now"


def test_patience_counts_probes_without_a_better_one():
    assert not offered([0.1, 0.3, 0.2], patience=2).exhausted
    assert offered([0.1, 0.3, 0.2, 0.3], patience=2).exhausted
    assert not offered([0.3, 0.2, 0.1, 0.0]).exhausted


def test_a_checkpoint_holds_all_of_it(tmp_path):
    selection = offered([0.1, 0.3, 0.2], patience=3)
    torch.save(selection.state_dict(), tmp_path / "state.pt")
    again = Selection(patience=3)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert {**vars(again), "weights": None} == {**vars(selection), "weights": None}
    assert torch.equal(again.weights["weight"], selection.weights["weight"])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("selection"))


def selecting(workspace, run: str, *overrides: str, stop_at: int | None = None) -> Loop:
    return run_loop(workspace, recipe_with(*SELECTING, *overrides), run, stop_at=stop_at)


def scores(loop: Loop) -> dict[int, float]:
    return {line["step"]: line["probe"] for line in loop.log.lines if "probe" in line}


def test_the_best_is_published_and_patience_ends_the_run(workspace):
    """And a run that was cut off ends at the same step, with the same weights."""
    whole = selecting(workspace, "whole", "pretrain.patience=2")
    found = scores(whole)
    best = max(found, key=lambda step: (found[step], -step))
    assert [step for step in found if step > best] == list(found)[-2:], (
        "after two probes without a better one"
    )
    assert best < whole.step == list(found)[-1] < whole.total_steps, "stopped early"
    card = workspace.read_json(PRETRAIN, "whole", CARD_FILE)
    assert card["provenance"]["steps"] == best
    assert card["provenance"]["metrics"]["probe"] == found[best]
    assert card["provenance"]["selection"] == {
        "by": "probe",
        "task": "emphysema_extent",
        "step": best,
        "score": found[best],
        "probes": len(found),
        "trained_steps": whole.step,
    }
    at_best = selecting(workspace, "at-best", "pretrain.checkpoint_every=1", stop_at=best)
    published = whole.model.query.state_dict()
    for name, value in at_best.model.query.state_dict().items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(published[name], value, msg=name)

    cut = selecting(workspace, "cut", "pretrain.patience=2", stop_at=3)
    assert cut.step == 3
    resumed = selecting(workspace, "cut", "pretrain.patience=2")
    assert scores(resumed) == found
    files = [Path(workspace.path(PRETRAIN, run, WEIGHTS_FILE)).read_bytes() for run in ("whole", "cut")]
    assert files[0] == files[1]
    # Cut off between its last checkpoint and its card, it is published without another step.
    workspace.delete(PRETRAIN, "cut", CARD_FILE)
    again = selecting(workspace, "cut", "pretrain.patience=2")
    assert again.step == whole.step
    assert workspace.read_json(PRETRAIN, "cut", CARD_FILE)["provenance"]["steps"] == best


def test_the_last_step_is_probed_wherever_it_is(workspace):
    loop = selecting(workspace, "short", "pretrain.max_steps=1")
    assert list(scores(loop)) == [1]
    assert loop.selection.step == 1


def test_what_selects_is_part_of_the_name_and_else_it_is_not(workspace):
    def name(*overrides: str) -> str:
        return run_name(workspace, load_recipe("demo", overrides))

    assert name() == name("pretrain.best_by=top1") == name("pretrain.probe.subjects=9")
    by_probe = name("pretrain.best_by=probe")
    named = [
        name(),
        by_probe,
        name("pretrain.best_by=probe", "pretrain.patience=2"),
        name("pretrain.best_by=probe", "pretrain.probe.subjects=9"),
        name("pretrain.best_by=probe", "sweep.tasks=[gold_stage]"),
    ]
    assert len(set(named)) == len(named)
    assert name("pretrain.best_by=probe", "pretrain.num_workers=1") == by_probe
