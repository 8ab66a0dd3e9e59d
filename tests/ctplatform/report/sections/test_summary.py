"""The sentences follow the tables: better values, intervals across chance, counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    summary,
)
from ctplatform.storage.workspace import Workspace
from ctplatform.training import collapse
from tests.ctplatform.report.workspace import RUN, copied, replaced


def finding(evaluated: Workspace, recipe, tmp_path: Path, **values: tuple[float, float, float]) -> str:
    """The summary's sentence when the initialisations have these values (value, low, high) with all labels."""
    workspace = copied(evaluated, tmp_path, f"evaluation/{RUN}")
    for name, keys in (("summary", ["initialisation"]), ("comparisons", ["b"])):
        rows = workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()
        chosen = (rows["task"] == "emphysema_extent") & (rows["metric"] == "r2") & (rows["fraction"] == 1.0)
        for initialisation, (value, low, high) in values.items():
            hit = chosen & (rows[keys[0]] == initialisation)
            if name == "summary":
                rows.loc[hit, ["value", "low", "high"]] = value, low, high
            else:
                difference = values["drasclr"][0] - value
                rows.loc[hit, ["difference", "low", "high"]] = difference, difference - 0.1, difference + 0.1
        replaced(workspace, rows, "evaluation", RUN, f"{name}.parquet")
    inputs = read_inputs(workspace, recipe, run=RUN)
    ((_, text),) = summary.findings(inputs, "emphysema_extent")
    return text


def test_what_beats_us_is_said(evaluated, recipe, tmp_path):
    text = finding(
        evaluated,
        recipe,
        tmp_path,
        drasclr=(0.4, 0.1, 0.6),
        density=(0.8, 0.6, 0.9),
        scratch=(0.45, 0.2, 0.6),
        random=(0.1, -0.2, 0.3),
    )
    assert "R² 0.40 (95% interval 0.10 to 0.60), better than chance (0.00)" in text
    assert "density baseline has 0.80" in text
    assert "\N{MINUS SIGN}0.40 (\N{MINUS SIGN}0.50 to \N{MINUS SIGN}0.30): the interval excludes zero" in text
    assert "from scratch has 0.45" in text
    assert "\N{MINUS SIGN}0.05 (\N{MINUS SIGN}0.15 to 0.05): the interval includes zero" in text
    assert "random encoder has" not in text


def test_an_interval_across_chance_is_no_success(evaluated, recipe, tmp_path):
    low = (-0.5, -0.9, -0.1)
    others = dict.fromkeys(("density", "scratch", "random", "local", "none"), low)
    text = finding(evaluated, recipe, tmp_path, drasclr=(0.1, -0.2, 0.3), **others)
    assert "not distinguishable from chance" in text
    assert "Nothing that was tried has a better value" in text


def test_facts_count_what_is_in_the_ledger(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    facts = {label: value for value, label in summary.section(inputs).facts}
    states = inputs.ledger["state"]
    assert facts["scans used / found"] == f"{states.isin(['accepted', 'flagged']).sum()} / {len(states)}"
    assert (
        facts["subjects in training / held out"]
        == f"{len(inputs.splits['train'])} / {len(inputs.splits['test'])}"
    )


def test_a_collapse_is_said_with_what_to_change(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    line = {"effective_rank": 3.0, "relative_rank": 0.3, "uniformity": -0.05, "top1": 0.1, "negatives": 9}
    collapsed = pd.DataFrame([{"step": step, **line} for step in range(1, 8)])
    (notice,) = [n for n in notices(replace(inputs, metrics=collapsed)) if "collapses" in n]
    assert "at step 7: effective rank 3.0" in notice
    assert (
        collapse.remedy(collapse.signs([collapsed.iloc[-1].to_dict()], window=1), recipe.pretrain) in notice
    )
    sound = collapsed.assign(relative_rank=0.9, uniformity=-2.0)
    assert not [n for n in notices(replace(inputs, metrics=sound)) if "collapses" in n]


def notices(inputs):
    return summary.section(inputs).notices
