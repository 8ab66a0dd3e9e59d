"""What stages request against what nodes have; GPUs that are there are used, unless the recipe says otherwise."""

from __future__ import annotations

import pytest

from ctplatform.config.cluster import RayConfig
from ctplatform.config.loader import load_recipe
from ctplatform.errors import PreflightError
from ctplatform.pipeline.checks import machine
from ctplatform.pipeline.checks.machine import (
    connected_nodes,
    gpu_findings,
    local_gpus,
    local_nodes,
    request_findings,
    requests,
    require_cluster,
    with_gpus,
)
from ctplatform.pipeline.graph import STAGES

TWO = [{"CPU": 2.0, "GPU": 0.0}]


def found(*overrides: str, nodes=TWO, stages=STAGES) -> list[str]:
    return [f.line() for f in request_findings(requests(load_recipe("fast", overrides), stages), nodes)]


def test_more_workers_than_cpus_are_found():
    (line,) = found("pretrain.num_workers=6")
    assert "pretrain.num_workers=6" in line
    assert "have room for 2" in line
    assert found("pretrain.num_workers=6", stages=("prepare",)) == []
    assert found("pretrain.num_workers=6", "pretrain.min_workers=2") == []
    assert found("pretrain.num_workers=6", nodes=TWO * 3) == []
    assert found("pretrain.num_workers=0") == []


def test_a_unit_must_fit_on_one_node():
    (line,) = found("prepare.num_cpus=3", nodes=TWO * 2)
    assert "prepare.num_cpus=3" in line
    assert found("prepare.memory_gb=8") == [], "the node's memory is not stated before Ray has started"
    (line,) = found("prepare.memory_gb=8", nodes=[{"CPU": 2.0, "memory": 4 * 2.0**30}])
    assert "4.0 GB of memory" in line
    assert len(found("pretrain.use_gpu=true", "embed.use_gpu=true", "sweep.gpus_per_trial=0.5")) == 3


def test_custom_resources_count_where_a_node_states_them():
    placed = "placement.pretrain.resources={train: 1}"
    assert found(placed, "pretrain.num_workers=2", nodes=[{"CPU": 4.0, "train": 1.0}]) != []
    assert found(placed, "pretrain.num_workers=1", nodes=[{"CPU": 4.0, "train": 1.0}]) == []


def test_gpus_are_used_where_the_recipe_leaves_it_open():
    recipe = load_recipe("fast", ["pretrain.num_workers=4"])
    fitted, lines = with_gpus(recipe, [{"CPU": 8.0, "GPU": 2.0}])
    assert (fitted.pretrain.use_gpu, fitted.pretrain.num_workers, fitted.embed.use_gpu) == (True, 2, True)
    assert len(lines) == 2
    fitted, lines = with_gpus(recipe, TWO)
    assert (fitted.pretrain.use_gpu, fitted.pretrain.num_workers, fitted.embed.use_gpu) == (False, 4, False)
    assert not lines


def test_gpus_that_are_switched_off_are_named():
    nodes = [{"CPU": 8.0, "GPU": 2.0}]
    off = load_recipe("fast", ["pretrain.use_gpu=false", "embed.use_gpu=false"])
    assert with_gpus(off, nodes)[0] == off
    (finding,) = gpu_findings(off, STAGES, nodes)
    assert finding.level == "warning"
    assert finding.where == "pretrain.use_gpu, embed.use_gpu"
    assert gpu_findings(load_recipe("fast"), STAGES, nodes) == []
    assert gpu_findings(off, STAGES, TWO) == []


def test_the_local_node_is_what_the_recipe_or_the_machine_says(monkeypatch):
    assert local_nodes(RayConfig(num_cpus=3))[0]["CPU"] == 3.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local_gpus() == 0


def test_a_cluster_that_stays_too_small_ends_the_run(monkeypatch):
    """And one that grows meanwhile, or that an autoscaler can make larger, does not."""
    recipe, lines = load_recipe("fast", ["pretrain.num_workers=6"]), []
    monkeypatch.setattr(machine, "connected_nodes", lambda: TWO)
    monkeypatch.setattr("ctplatform.compute.ray_internals.autoscaler_configured", lambda: False)
    with pytest.raises(PreflightError, match="have room for 2"):
        require_cluster(recipe, STAGES, patience_s=0.05, say=lines.append, every_s=0.01)
    assert "waiting up to" in lines[0]
    growing = iter([TWO, TWO, TWO * 3])
    monkeypatch.setattr(machine, "connected_nodes", lambda: next(growing))
    require_cluster(recipe, STAGES, patience_s=60, say=lines.append, every_s=0.01)
    monkeypatch.setattr(machine, "connected_nodes", lambda: TWO)
    monkeypatch.setattr("ctplatform.compute.ray_internals.autoscaler_configured", lambda: True)
    require_cluster(recipe, STAGES, patience_s=0, say=lines.append)


def test_nodes_of_a_session_are_those_of_ray(ray_local):
    (node,) = connected_nodes()
    assert node["CPU"] == 2.0
