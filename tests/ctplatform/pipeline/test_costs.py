"""Sizes and rates in words and bytes."""

from __future__ import annotations

from dataclasses import replace

from ctplatform.pipeline.costs import Costs, Size

SIZE = Size(scans=10, training_scans=6, locations=500)


def test_a_scans_bytes_are_those_of_its_locations():
    assert SIZE.scan_bytes(Costs(patch_bytes=20.0)) == 10_000
    assert replace(SIZE, locations=0).scan_bytes(Costs()) == 0


def test_estimates_say_what_they_do_not_rest_on():
    assert SIZE.remark == ""
    assert "not yet known" in replace(SIZE, exact=False).remark
    assert "--gpu-rate" in Costs().gpu_remark
    assert Costs(gpu_anchors_per_s=9.0, gpu_basis="measured here").gpu_remark == "measured here"
