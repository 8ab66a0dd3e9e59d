"""What each stage costs follows from sizes, recipe and costs, and shrinks by what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctplatform.config.evaluation import SearchConfig
from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.costs import Costs, Size
from ctplatform.pipeline.graph import GRAPH
from ctplatform.pipeline.stages.embed import FORWARD_PASSES_AN_ANCHOR
from ctplatform.pipeline.stages.pretrain import steps_in_all
from ctplatform.pipeline.stages.sweep import mean_share_of_steps

SIZE = Size(scans=100, training_scans=65, locations=500)
COSTS = Costs(prepare_s=3.6, patch_bytes=10.0, anchor_s=0.36, forward_s=0.0036, trial_s=36.0)
FAST = load_recipe("fast")


def work(stage: str, recipe=FAST, size: Size = SIZE, costs: Costs = COSTS):
    return GRAPH[stage].work(recipe, size, costs)


def test_preparation_costs_its_unprepared_scans():
    assert (work("prepare").amount, work("prepare").core_hours) == (100, pytest.approx(0.1))
    assert work("prepare").written_bytes == 100 * 500 * 10
    rest = work("prepare", size=replace(SIZE, prepared=75))
    assert (rest.amount, rest.core_hours) == (25, pytest.approx(0.025))
    assert work("prepare", size=replace(SIZE, prepared=120)).amount == 0


def test_an_atlas_costs_scans_only_while_it_is_to_be_built():
    assert work("atlas").amount == FAST.atlas.max_scans
    assert work("atlas").core_hours == pytest.approx(FAST.atlas.max_scans * 0.001 * FAST.atlas.iterations)
    assert work("atlas", size=replace(SIZE, atlas_done=True)).amount == 0
    assert work("atlas", load_recipe("fast", ["atlas.source=/given"])).amount == 0


def test_pretraining_costs_its_remaining_steps():
    recipe = load_recipe("fast", ["pretrain.epochs=3"])
    steps, epoch = steps_in_all(recipe, SIZE)
    assert steps == 3 * epoch
    assert work("pretrain", recipe).amount == 3 * 65 * 500
    assert work("pretrain", recipe).core_hours == pytest.approx(3 * 65 * 500 * 0.36 / 3600)
    assert work("pretrain", recipe, replace(SIZE, steps_done=2 * epoch)).amount == 65 * 500
    assert work("pretrain", recipe, replace(SIZE, steps_done=steps)).amount == 0
    assert steps_in_all(load_recipe("fast", ["pretrain.max_steps=1"]), SIZE)[0] == 1


def test_gpu_hours_need_a_measured_rate():
    recipe = load_recipe("fast", ["pretrain.use_gpu=true", "embed.use_gpu=true", "pretrain.epochs=1"])
    for stage in ("pretrain", "embed"):
        assert work(stage, recipe).gpu_hours is None
        assert "give --gpu-rate" in work(stage, recipe).basis
        rated = work(stage, recipe, costs=replace(COSTS, gpu_anchors_per_s=1000.0, gpu_basis="run x"))
        assert rated.basis.startswith("run x")
        assert rated.core_hours == 0
    anchors = 65 * 500
    costs = replace(COSTS, gpu_anchors_per_s=1000.0)
    assert work("pretrain", recipe, costs=costs).gpu_hours == pytest.approx(anchors / 1000 / 3600)
    patches = 100 * 500 * len(recipe.embed.encoders)
    hours = patches / (1000 * FORWARD_PASSES_AN_ANCHOR) / 3600
    assert work("embed", recipe, costs=costs).gpu_hours == pytest.approx(hours)


def test_trials_are_the_grid_and_networks_cost_more():
    base = ["sweep.tasks=[emphysema_extent]", "sweep.fractions=[0.5,1.0]", "sweep.seeds=3"]
    frozen = work("sweep", load_recipe("fast", [*base, "sweep.initialisations=[drasclr,density]"]))
    assert (frozen.amount, frozen.core_hours) == (2 * 2 * 3, pytest.approx(0.12))
    trained = work("sweep", load_recipe("fast", [*base, "sweep.initialisations=[drasclr,scratch]"]))
    assert trained.amount == frozen.amount
    assert trained.core_hours > frozen.core_hours
    searched = [*base, "sweep.initialisations=[drasclr,scratch]", "sweep.search.configurations=8"]
    assert work("sweep", load_recipe("fast", searched)).core_hours > trained.core_hours


def test_models_that_are_kept_cost_a_training_where_no_trial_has_left_its_network():
    base = ["sweep.initialisations=[finetune]", "sweep.seeds=1"]

    def trained(fraction: float, *tasks: str) -> float:
        keys = [*base, f"sweep.fractions=[{fraction}]", f"sweep.tasks=[{','.join(tasks)}]"]
        return work(
            "sweep", load_recipe("fast", keys), costs=replace(COSTS, trial_s=0, forward_s=0)
        ).core_hours

    one = trained(1.0, "emphysema_extent")
    assert trained(0.99, "emphysema_extent") == pytest.approx(2 * one)
    assert trained(1.0, "nodules") == pytest.approx(2 * one)  # one more validates it
    assert trained(1.0, "emphysema_extent", "nodules") == pytest.approx(3 * one)


def test_successive_halving_trains_a_configuration_for_part_of_the_steps():
    assert mean_share_of_steps(SearchConfig(grace=1.0)) == pytest.approx(1.0)
    # Rungs at 1/4, 1/2 and 1: a quarter of the steps for all, another for one in two, the rest for one in four.
    assert mean_share_of_steps(SearchConfig(grace=0.25, reduction=2)) == pytest.approx(1 / 4 + 1 / 8 + 1 / 8)


def test_stages_that_only_read_and_write_tables_cost_nothing():
    for stage in ("split", "report"):
        assert (work(stage).amount, work(stage).core_hours) == (0, 0.0)
