"""What each option of the method is worth downstream: `python -m tests.benchmarks.ablations --workspace FOLDER`.

Pretrains one small encoder an option on the synthetic cohort of the recipe `demo` (made in the workspace if it is not
there), embeds all scans with each, and fits the same linear probes on the same subjects. Prints a Markdown table;
`--write` puts it into docs/benchmarks/. What was finished before is not done again. About 40 minutes on two cores;
`--only` picks options and `--steps` shortens each run. The losses and the conditioning, on more subjects and with what
the features hold, are in `tests.benchmarks.evidence`.
"""

from __future__ import annotations

import argparse
import sys
import time

import pandas as pd

from ctplatform.cli.console import Console
from ctplatform.compute.session import ray_session
from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.sweep import sweep
from ctplatform.inference.embed import embed
from ctplatform.phantom.cohort import phantom_cohort
from ctplatform.pipeline.chain import run_chain
from ctplatform.storage.layout import EVALUATION
from ctplatform.storage.workspace import Workspace
from ctplatform.training.pretrain import pretrain
from tests.benchmarks import document

RECIPE = "recipe"
#: Option -> what it changes of the recipe's `pretrain`.
OPTIONS: dict[str, tuple[str, ...]] = {
    RECIPE: (),
    "sum of neighbours, as published": ("neighbour_aggregation=sum",),
    "attention over neighbours": ("neighbour_aggregation=attention",),
    "k = 0: local loss only": ("beta=0",),
    "global loss only": ("local_weight=0",),
    "E = 1: no conditioning": ("encoder.conditioning=none", "encoder.experts=1"),
    "location as input channels": ("encoder.conditioning=concat", "encoder.experts=1"),
    "group normalisation": ("encoder.norm=group",),
    "one location a batch": ("locations_per_batch=1", "scans_per_batch=32"),
    "negatives from the memory only": ("batch_negatives=false",),
    "negatives of the same subject": ("exclude_same_subject=false",),
    "keys shuffled over two workers": ("shuffle_keys=true",),
    "no augmentation": ("augment=false",),
}


def variant(option: str, steps: int, overrides: list[str]) -> Recipe:
    """The demo's recipe with one option changed; two workers only where keys cross between them."""
    workers = 2 if "shuffle_keys=true" in OPTIONS[option] else 0
    changes = [f"max_steps={steps}", f"num_workers={workers}", *OPTIONS[option]]
    recipe = load_recipe("demo", [*overrides, *(f"pretrain.{change}" for change in changes)])
    return recipe.model_copy(update={"embed": recipe.embed.model_copy(update={"encoders": ("drasclr",)})})


def evaluate(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, runs: dict[str, str]
) -> pd.DataFrame:
    """Probes on all labels of the training subjects, one row a task and option with its interval."""
    names = {f"option{position}": option for position, option in enumerate(runs)}
    changed = recipe.model_dump(mode="json")
    changed["sweep"] |= {
        "initialisations": [*names, "random", "density"],
        "ablations": [],
        "runs": {name: runs[option] for name, option in names.items()},
        "fractions": [1.0],
        "seeds": 1,
    }
    sweep(workspace, cohort, Recipe.model_validate(changed), run=runs[RECIPE])
    table = workspace.read_table(EVALUATION, runs[RECIPE], "summary.parquet").to_pandas()
    return table.assign(initialisation=table["initialisation"].replace(names))


def render(table: pd.DataFrame, seconds: dict[str, float], losses: dict[str, float]) -> str:
    """One row an option: loss, seconds, and the first score of each task with its interval."""
    first = table.groupby("task", sort=False)["metric"].transform("first")
    table = table[table["metric"] == first]
    heads = [f"{r.task}, {r.metric} (n = {r.n_test})" for r in table.drop_duplicates("task").itertuples()]
    lines = []
    for option, rows in table.groupby("initialisation", sort=False):
        name = str(option)
        known = name in losses
        scores = [f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in rows.itertuples()]
        lines.append(
            [name, f"{losses[name]:.2f}" if known else "", f"{seconds[name]:.0f}" if known else "", *scores]
        )
    return document.table(["option", "last loss", "seconds", *heads], lines)


def main() -> None:
    """Pretrain, embed, probe, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", required=True, help="a folder; that of a finished demo will do")
    parser.add_argument("--steps", type=int, default=150, help="steps of each pretraining run")
    parser.add_argument("--only", nargs="*", help="parts of the names of options; all by default")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    chosen = [
        option
        for option in OPTIONS
        if option == RECIPE or not options.only or any(part in option for part in options.only)
    ]
    workspace = Workspace(options.workspace)
    base = variant(RECIPE, options.steps, options.overrides)
    assert base.phantom is not None
    runs: dict[str, str] = {}
    seconds: dict[str, float] = {}
    losses: dict[str, float] = {}
    with ray_session(base.ray):
        cohort = phantom_cohort(workspace, base.phantom)
        run_chain(workspace, cohort, base, Console(), last="split")
        for option in chosen:
            recipe = variant(option, options.steps, options.overrides)
            if option == RECIPE:  # the untrained encoder is embedded once, beside the recipe's own
                recipe = recipe.model_copy(
                    update={"embed": recipe.embed.model_copy(update={"encoders": ("drasclr", "random")})}
                )
            start = time.monotonic()
            summary = pretrain(workspace, recipe)
            runs[option], losses[option] = summary.run, summary.metrics["loss"]
            seconds[option] = summary.metrics["seconds"]
            embed(workspace, recipe, run=summary.run)
            print(f"{option}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        table = evaluate(workspace, cohort, base, runs)
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.ablations --steps {options.steps}`: one pretraining run of {options.steps} "
            "steps an option, one seed; linear probes on all training labels. Intervals (95%) are over test subjects; "
            "they do not hold the spread of pretraining seeds. Losses with other sets of negatives do not compare.",
            render(table, seconds, losses),
        ]
    )
    print(text)
    if options.write:
        document.replace("Options of the method", text)


if __name__ == "__main__":
    main()
