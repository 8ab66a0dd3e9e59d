"""Stages in order, each with inputs that an earlier one makes."""

from __future__ import annotations

from ctplatform.pipeline.graph import GRAPH, downstream


def test_every_input_is_made_by_a_stage_before_it():
    made = {"scans", "labels"}
    for stage in GRAPH.values():
        assert set(stage.inputs) <= made
        made |= set(stage.outputs)
    assert downstream("prepare") == ("split", "pretrain", "embed", "sweep", "report")
    assert downstream("sweep") == ("report",)
