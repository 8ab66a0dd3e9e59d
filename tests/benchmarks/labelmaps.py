"""Emphysema subtypes and nodules from label maps: `python -m tests.benchmarks.labelmaps --workspace FOLDER`.

Runs the recipe `dense` in the workspace, or goes on where it stopped, and prints a Markdown table of its summary;
`--write` puts it into docs/benchmarks.md. About half an hour on two cores that are free.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
from pathlib import Path

import pandas as pd

from ctplatform.config import Recipe, load_recipe
from ctplatform.demo import phantom_cohort
from ctplatform.overlap import SCORES
from ctplatform.pipeline import run_chain
from ctplatform.session import ray_session
from ctplatform.trial import FOLDER
from ctplatform.workspace import Workspace
from tests.benchmarks import document
from tests.benchmarks.ablations import Quiet

SECTION = "Label maps"
SHOWN = {
    "emphysema_subtypes": (
        *("dice_mean", "dice_centrilobular", "dice_panlobular", "dice_paraseptal"),
        *("auroc_centrilobular", "auroc_panlobular", "auroc_paraseptal"),
        *("percent_centrilobular", "percent_panlobular", "percent_paraseptal"),
    ),
    "nodules": ("dice", "hd95", "false_ml"),
    "lobes": ("dice", "hd95"),
}


class Watcher(Quiet):
    """Tells which stage is at work, and why."""

    def started(self, stage: str, why: str = "") -> None:
        print(f"{stage}: {why}", flush=True)

    def skipped(self, stage: str, why: str) -> None:
        print(f"{stage}: skipped, {why}", flush=True)

    def told(self, stage: str, lines: object) -> None:
        pass


def render(summary: pd.DataFrame, recipe: Recipe) -> str:
    """One table a task: a row a metric and share of labels, a column an initialisation, with 95% intervals."""
    parts = []
    for task in dict.fromkeys(summary["task"]):
        rows = summary[summary["task"] == task]
        names = [name for name in recipe.sweep.initialisations if (rows["initialisation"] == name).any()]
        lines = []
        for metric in SHOWN[task]:
            for _, part in rows[rows["metric"] == metric].groupby("fraction"):
                by_name = part.set_index("initialisation")
                n = int(part["n_train"].iloc[0])
                cells = [_cell(by_name.loc[name]) if name in by_name.index else "" for name in names]
                chance = part["chance"].iloc[0]
                lines.append(
                    [SCORES[metric].title, f"{n}", *cells, "" if pd.isna(chance) else f"{chance:.2f}"]
                )
        n_test = int(rows["n_test"].iloc[0])
        head = [f"{task}, n = {n_test} test subjects", "labelled", *names, "chance"]
        parts.append(document.table(head, lines))
    return "\n\n".join(parts)


def _cell(row: pd.Series) -> str:
    digits = 1 if row["metric"] == "hd95" else 2
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", required=True, help="a folder")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    workspace, recipe = Workspace(options.workspace), load_recipe("dense")
    assert recipe.phantom is not None
    with ray_session(recipe.ray):
        cohort = phantom_cohort(workspace, recipe.phantom)
        outcome = run_chain(workspace, cohort, recipe, Watcher(), last="sweep")
    summary = workspace.read_table(FOLDER, outcome.run, "summary.parquet").to_pandas()
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.labelmaps` (the recipe `dense`): {recipe.phantom.subjects} subjects, "
            f"{recipe.pretrain.max_steps} steps of pretraining, {recipe.sweep.seeds} seed; `scratch` and `finetune` "
            f"had {recipe.sweep.scratch.max_steps} steps on windows and {recipe.sweep.segmentation.steps} on crops. "
            f"{machine.machine()}, {os.cpu_count()} cores. Value with 95% bootstrap interval over test subjects; from "
            "so few, intervals are too narrow.",
            render(summary, recipe),
        ]
    )
    print(text)
    if options.write:
        document.replace(Path(__file__).parents[2] / "docs" / "benchmarks.md", SECTION, text)


if __name__ == "__main__":
    main()
