"""The settings of a stage are those that its result depends on."""

from __future__ import annotations

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.graph import GRAPH, STAGES, between, maker


def settings(stage: str, *overrides: str) -> dict:
    return GRAPH[stage].settings_in(load_recipe("fast", overrides))


@pytest.mark.parametrize(
    ("stage", "override"),
    [
        ("prepare", "prepare.memory_gb=2"),
        ("pretrain", "pretrain.probe.every_epochs=0"),
        ("embed", "embed.use_gpu=true"),
        ("sweep", "sweep.gpus_per_trial=1"),
    ],
)
def test_hardware_is_left_out_and_nothing_else(stage, override):
    key = override.split("=")[0]
    assert settings(stage, override) == settings(stage)
    assert key not in settings(stage)


def test_the_probe_counts_where_it_selects_the_encoder():
    selecting = settings("pretrain", "pretrain.best_by=probe")
    assert selecting["pretrain.best_by"] == "probe"
    assert selecting != settings("pretrain", "pretrain.best_by=probe", "pretrain.probe.subjects=9")
    assert "pretrain.best_by" not in settings("pretrain", "pretrain.best_by=top1")


def test_the_lung_mask_counts_for_the_atlas_that_is_built():
    assert "prepare.lungs.segmenter" in settings("atlas")
    assert "prepare.lungs.segmenter" not in settings("atlas", "atlas.source=/given")
    assert settings("atlas", "atlas.source=/given")["atlas.source"] == "/given"


def test_fine_tuning_counts_where_something_is_fine_tuned():
    frozen, tuned = "sweep.initialisations=[drasclr]", "sweep.initialisations=[drasclr,finetune]"
    other = "sweep.finetune.lr=0.5"
    assert settings("sweep", frozen) == settings("sweep", frozen, other)
    assert settings("sweep", tuned) != settings("sweep", tuned, other)
    older = settings("sweep", tuned) | {"sweep.finetune.given_up": 1}
    stage = GRAPH["sweep"]
    assert "sweep.finetune.given_up" in stage.effective(older, load_recipe("fast", [tuned]))
    assert "sweep.finetune.given_up" not in stage.effective(older, load_recipe("fast", [frozen]))


def test_single_keys_are_settings_too():
    assert settings("split")["prepare.quality.use_flagged"] is True
    assert not any(key.startswith("prepare.registration") for key in settings("split"))


def test_every_stage_is_described_and_has_a_command_but_the_split():
    assert {name for name in STAGES if not GRAPH[name].help} == {"split"}
    assert [maker(output) for stage in GRAPH.values() for output in stage.outputs] == [
        stage.name for stage in GRAPH.values() for _ in stage.outputs
    ]
    assert between("split", "embed") == ("split", "pretrain", "embed")
    assert between(STAGES[0], STAGES[-1]) == STAGES


def test_a_split_is_never_discarded():
    assert {name for name, stage in GRAPH.items() if stage.discard is None} == {"split", "report"}
