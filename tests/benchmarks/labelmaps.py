"""Emphysema subtypes and nodules from label maps: `python -m tests.benchmarks.labelmaps --workspace FOLDER`.

Runs the recipe `dense` in the workspace, or goes on where it stopped, and prints a Markdown table of its summary;
`--write` puts it into docs/benchmarks/. About half an hour on two cores that are free.
"""

from __future__ import annotations

import argparse
import os
import platform as machine
import time
from collections.abc import Callable

import pandas as pd

from ctplatform.cli.console import Console
from ctplatform.compute.session import ray_session
from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.metrics.overlap import SCORES
from ctplatform.phantom.cohort import phantom_cohort
from ctplatform.pipeline.chain import run_chain
from ctplatform.storage.layout import EVALUATION
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import document

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


def speed() -> str:
    """CPU cost of what a trial does most, on one thread, random weights of 8 experts, fastest of three."""
    import torch

    from drasclr.encoder import Encoder
    from drasclr.heads import Segmenter

    torch.set_num_threads(1)
    encoder = Encoder().eval()
    windows, crop, locations = torch.rand(64, 1, 32, 32, 32), torch.rand(1, 1, 64, 64, 64), torch.rand(64, 3)
    segmenter = Segmenter(encoder, classes=2).eval()

    def seconds(call: Callable[[], object]) -> float:
        taken = []
        for _ in range(4):
            start = time.process_time()
            call()
            taken.append(time.process_time() - start)
        return min(taken[1:])

    with torch.inference_mode():
        each = seconds(lambda: encoder(windows, locations)) / len(windows)
        voxels = seconds(lambda: segmenter(crop, locations[:1])) / crop.numel()
    return f"{1000 * each:.1f} ms a window at a location of its own; {1e6 * voxels:.2f} s a million voxels segmented"


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", default="runs/dense", help="a folder (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    parser.add_argument("--speed", action="store_true", help="only measure windows and segmentation")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    if options.speed:
        print(speed())
        return
    workspace, recipe = Workspace(options.workspace), load_recipe("dense", options.overrides)
    assert recipe.phantom is not None
    with ray_session(recipe.ray):
        cohort = phantom_cohort(workspace, recipe.phantom)
        outcome = run_chain(workspace, cohort, recipe, Console(), last="sweep")
    summary = workspace.read_table(EVALUATION, outcome.run, "summary.parquet").to_pandas()
    changes = "".join(f" --set {change}" for change in options.overrides)
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.labelmaps{changes}` (recipe `dense`): {recipe.phantom.subjects} subjects, "
            f"{recipe.pretrain.max_steps} steps of pretraining, {recipe.sweep.seeds} seed; `scratch` and `finetune` "
            f"had {recipe.sweep.scratch.max_steps} steps on windows and {recipe.sweep.segmentation.steps} on crops. "
            f"{machine.machine()}, {os.cpu_count()} cores. Value with 95% bootstrap interval over test subjects; from "
            "so few, intervals are too narrow.",
            render(summary, recipe),
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
