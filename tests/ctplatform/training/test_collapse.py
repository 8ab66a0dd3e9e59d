"""Collapse is seen in the logs of runs that collapsed, and not in those of runs that did not.

`tests/data/collapse` holds the logs of demos of 60 phantoms, two workers each: `demo-0.1.0.jsonl` of the settings of
version 0.1.0 (`tests/data/demo-0.1.0.yaml`: published augmentation, no location_norm), `demo-both-losses.jsonl` of
those that followed (weaker views, `beta: 1`), and `demo.jsonl` of the recipe `demo`: `drasclr demo`, then the measures
of `pretrain/<run>/metrics.jsonl`.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError
from ctplatform.training import collapse
from ctplatform.training.loop import Loop
from drasclr.encoder import FEATURES
from tests.conftest import ROOT
from tests.ctplatform.training_world import recipe_with, training_workspace

LOGS = {"demo-0.1.0": ROOT / "tests/data/demo-0.1.0.yaml", "demo-both-losses": "demo", "demo": "demo"}


def logged(name):
    """(lines of the log with their relative rank, settings of the run)."""
    config = load_recipe(str(LOGS[name])).pretrain
    embeddings = config.scans_per_batch // 2 * config.locations_per_batch
    lines = [json.loads(line) for line in (ROOT / f"tests/data/collapse/{name}.jsonl").open()]
    for line in lines:
        line["relative_rank"] = collapse.relative_rank(
            line["effective_rank"], embeddings=embeddings, features=FEATURES
        )
    return lines, config


def test_the_demo_of_published_views_collapses_and_it_is_said_early():
    lines, config = logged("demo-0.1.0")
    first = next(i for i in range(len(lines)) if (s := collapse.signs(lines[: i + 1])) and s.collapsed)
    assert lines[first]["step"] <= 80
    found = collapse.signs(lines)
    assert found.collapsed
    assert found.uniformity > -0.3
    text = collapse.message(found, config)
    for change in ("translation=4", "gamma_probability=0", "location_norm=true", "top-1 6% (chance 1%)"):
        assert change in text


@pytest.mark.parametrize("name", ["demo-both-losses", "demo"])
def test_the_demo_of_weaker_views_does_not_collapse(name):
    lines, _ = logged(name)
    assert lines[-1]["step"] == 140
    found = [collapse.signs(lines[: i + 1]) for i in range(len(lines))]
    assert len([s for s in found if s]) == len(lines) - collapse.WINDOW + 1
    assert not any(s.collapsed for s in found if s)
    assert found[collapse.WINDOW - 2] is None, "single batches differ: it takes several lines"


# Ends of the runs of docs/benchmarks/normalisation-and-augmentation.md (one worker of 48 embeddings, 87 candidates).
@pytest.mark.parametrize(
    ("rank", "uniformity", "top1", "collapsed"),
    [
        (6.0, -0.06, 0.05, True),
        (5.3, -0.09, 0.06, True),
        (7.3, -1.27, 0.06, True),
        (5.4, -1.09, 0.06, True),
        (12.4, -0.85, 0.31, False),
        (16.8, -1.15, 0.38, False),
        (15.5, -1.95, 0.27, False),
        (20.7, -2.51, 0.37, False),
    ],
)
def test_runs_of_the_factorial_experiment_are_told_apart(rank, uniformity, top1, collapsed):
    line = {"step": 200, "effective_rank": rank, "uniformity": uniformity, "top1": top1, "negatives": 87}
    line["relative_rank"] = collapse.relative_rank(rank, embeddings=48, features=FEATURES)
    assert collapse.signs([line] * collapse.WINDOW).collapsed is collapsed


def test_the_rank_is_relative_to_what_the_batch_allows():
    assert collapse.relative_rank(47, embeddings=48, features=128) == pytest.approx(1)
    assert collapse.relative_rank(1, embeddings=48, features=128) == 0
    assert collapse.relative_rank(128, embeddings=4096, features=128) == pytest.approx(1)
    assert collapse.relative_rank(9, embeddings=24, features=128) > collapse.relative_rank(
        9, embeddings=48, features=128
    )
    assert math.isnan(collapse.relative_rank(2, embeddings=4, features=128)), "too few to say"


def test_one_expert_for_all_locations_has_a_remedy_of_its_own():
    line = {"step": 9, "effective_rank": 30.0, "relative_rank": 0.9, "expert_entropy": 0.05}
    found = collapse.signs([line] * collapse.WINDOW)
    assert found.collapsed
    assert "routing_lr" in collapse.message(found, recipe_with().pretrain)


def collapsing(workspace, *overrides):
    """A loop whose encoder gives all patches one projection after its second step."""
    recipe = recipe_with(
        "pretrain.max_steps=12", "pretrain.checkpoint_every=2", "pretrain.lr=1e-9", *overrides
    )
    loop = Loop(workspace, recipe, f"run{len(overrides)}", rank=0, world=1, device=torch.device("cpu"))

    def flatten(loop):
        if loop.step == 2:
            with torch.no_grad():
                for encoder in (loop.model.query, loop.model.key):
                    [p for p in encoder.parameters() if p.ndim == 2][-1].zero_()

    return loop, flatten


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("collapse"))


def test_a_run_warns_while_it_collapses_and_marks_its_lines(workspace, caplog):
    loop, flatten = collapsing(workspace)
    loop.run(on_checkpoint=flatten)
    marked = [line["collapsed"] for line in loop.log.lines]
    assert marked[:2] == [0, 0]
    assert marked[-1] == 1
    assert loop.log.lines[0]["relative_rank"] > collapse.LOW_RANK
    warnings = [r.message for r in caplog.records if "collapses at step" in r.message]
    assert len(warnings) == 1, "once, not at each line"
    assert "Set pretrain" in warnings[0] or "Lower pretrain" in warnings[0]


def test_a_run_stops_at_a_collapse_where_that_is_set(workspace):
    loop, flatten = collapsing(workspace, "pretrain.on_collapse=stop")
    with pytest.raises(
        StageError, match=r"was stopped: the representation collapses at step \d+: .*rank"
    ) as caught:
        loop.run(on_checkpoint=flatten)
    assert caught.value.code == "collapsed"
    assert loop.step < 12
    assert not workspace.exists("pretrain", loop.run_name, "weights.safetensors")
