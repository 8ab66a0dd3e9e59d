"""Which stages a command begins with, and what it makes of its options."""

from __future__ import annotations

import pytest

from ctplatform.cli.arguments import job_parser
from ctplatform.cli.chain_commands import first_stage, labels_of, recipe_of
from ctplatform.errors import PlatformError


def test_a_given_atlas_is_put_into_the_workspace_before_scans_are_prepared():
    assert first_stage("prepare", atlas="somewhere") == "atlas"
    assert first_stage("prepare", atlas=None) == "prepare"
    assert first_stage("pretrain", atlas="somewhere") == "split"
    assert first_stage("sweep", atlas=None) == "sweep"


def test_options_of_their_own_set_the_recipe():
    args = job_parser().parse_args(
        ["--recipe", "demo", "--atlas", "a", "--prefetch", "3", "--set", "pretrain.seed=5"]
    )
    recipe = recipe_of(args)
    assert (recipe.atlas.source, recipe.prepare.prefetch, recipe.pretrain.seed) == ("a", 3, 5)


def test_labels_are_joined_to_a_scan_table():
    assert labels_of(job_parser().parse_args(["--cohort", "c.csv"])) is None
    given = job_parser().parse_args(["--cohort", "c.csv", "--labels", "l.csv", "--key", "scan_id"])
    assert labels_of(given) == ("l.csv", "scan_id")
    with pytest.raises(PlatformError, match="Give --cohort"):
        labels_of(job_parser().parse_args(["--labels", "l.csv"]))
