"""The command that is printed parses to the recipe that was used."""

from __future__ import annotations

import shlex

import pytest

from ctplatform.cli.main import parser
from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.checks.machine import with_gpus
from ctplatform.report.commands import command


@pytest.mark.parametrize(
    "overrides", [[], ["sweep.seeds=4", "pretrain.lr=0.5"], ["sweep.fractions=[0.1, 1.0]"]]
)
@pytest.mark.parametrize("stage", ["prepare", "pretrain", "sweep", "report", "run"])
def test_the_printed_command_means_this_recipe(stage, overrides):
    recipe = load_recipe("demo", overrides)
    args = parser().parse_args(shlex.split(command(stage, recipe))[1:])
    assert load_recipe(args.recipe, args.overrides) == recipe


@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_what_was_fitted_to_the_machine_is_printed_only_where_the_user_gave_it(gpus):
    nodes = [{"CPU": 4.0, "GPU": gpus}]
    fitted, _ = with_gpus(load_recipe("demo", ["pretrain.lr=0.5"]), nodes)
    assert fitted.embed.use_gpu == bool(gpus)
    assert command("run", fitted).endswith(" --recipe demo --set pretrain.lr=0.5")
    given = ["pretrain.use_gpu=false", "pretrain.num_workers=1", "embed.use_gpu=null"]
    text = command("run", with_gpus(load_recipe("demo", given), nodes)[0])
    assert text.endswith(" --set pretrain.num_workers=1 --set pretrain.use_gpu=false")


def test_paths_and_addresses_are_not_printed():
    recipe = load_recipe("demo", ["atlas.source=/home/doe/atlas", "ray.address=10.0.0.7:6379"])
    text = command("run", recipe)
    assert "doe" not in text
    assert "10.0.0.7" not in text
    assert "atlas.source=..." in text
