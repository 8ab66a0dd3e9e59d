"""Placement of the recipe as options of Ray: tasks run where they say."""

from __future__ import annotations

import pytest
import ray

from ctplatform.compute.placement import ray_options
from ctplatform.config.cluster import PlacementConfig


@pytest.mark.parametrize(
    ("placement", "options"),
    [
        ({}, {}),
        ({"resources": {"gpu_node": 1.0}}, {"resources": {"gpu_node": 1.0}}),
        ({"labels": {"zone": "a"}}, {"label_selector": {"zone": "a"}}),
        (
            {"resources": {"prepare": 0.5}, "labels": {"zone": "a"}},
            {"resources": {"prepare": 0.5}, "label_selector": {"zone": "a"}},
        ),
    ],
)
def test_options(placement, options):
    assert ray_options(PlacementConfig.model_validate(placement)) == options


def test_ray_accepts_them_and_places_by_them(ray_local):
    task = ray.remote(lambda: 1)
    assert ray.get(task.options(**ray_options(PlacementConfig.model_validate({}))).remote()) == 1
    nowhere = task.options(
        **ray_options(PlacementConfig.model_validate({"resources": {"no_such": 1.0}}))
    ).remote()
    assert ray.wait([nowhere], timeout=0.5) == ([], [nowhere])
    ray.cancel(nowhere)
