"""The demo-scale evidence: `python -m tests.benchmarks.evidence --workspace FOLDER`, or `make evidence`.

Runs the recipe `evidence` on a synthetic cohort (pretraining, its ablations, embedding, end-to-end training, report),
fits the frozen heads of every task with many label subsets, and prints what comes out as Markdown: each claim with its
paired difference and interval, then why. `--write` puts it into docs/benchmarks/. What was finished before is not
done again, so the same call goes on after an interruption.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd

from ctplatform.cli.console import Console
from ctplatform.compute.session import ray_session
from ctplatform.config.ablations import ablated
from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.inference.embed import embed
from ctplatform.phantom.cohort import phantom_cohort
from ctplatform.pipeline.chain import run_chain
from ctplatform.storage.workspace import Workspace
from ctplatform.training.pretrain import pretrain
from ctplatform.training.runs import run_name
from tests.benchmarks import document, findings
from tests.benchmarks.cost import CpuTime
from tests.benchmarks.scores import frozen_scores, swept_scores

SECTION = "Evidence, tables"
#: Tasks of the frozen heads, and the metric that is printed of each.
FROZEN = {
    "emphysema_extent": "spearman",
    "emphysema": "auroc",
    "gold_stage": "kappa",
    "fev1pp": "spearman",
    "visual_emphysema": "kappa",
    "survival": "c_index",
}
SUBSETS = 10  # of the labels, a fraction


def run(workspace: Workspace, recipes: list[Recipe]) -> tuple[pd.DataFrame, str, float, float]:
    """Everything that computes: (cohort, first run, wall seconds, CPU seconds) of this call.

    The first recipe goes through the whole chain; of the others, which differ in the seed of pretraining, the frozen
    representations are made.
    """
    first = recipes[0]
    assert first.phantom is not None
    start = time.monotonic()
    with CpuTime() as cpu, ray_session(first.ray):
        cohort = phantom_cohort(workspace, first.phantom)
        run_chain(workspace, cohort, first, Console(), last="split")
        for recipe in recipes:
            pretrain_side_by_side(workspace, recipe)
        outcome = run_chain(workspace, cohort, first, Console())
        for recipe in recipes[1:]:
            for one in (recipe, *(ablated(recipe, name) for name in recipe.sweep.ablations)):
                embed(workspace, one, run=run_name(workspace, one))
    return cohort, outcome.run, time.monotonic() - start, cpu.seconds


def pretrain_side_by_side(workspace: Workspace, recipe: Recipe) -> None:
    """The recipe's own run and its ablations, one process each and as many at a time as there are cores."""
    import ray

    @ray.remote(num_cpus=1)
    def train(name: str, one: Recipe) -> tuple[str, float]:
        return name, pretrain(workspace, one).seconds

    recipes = {"drasclr": recipe, **{name: ablated(recipe, name) for name in recipe.sweep.ablations}}
    waiting = [train.remote(name, one) for name, one in recipes.items()]
    while waiting:
        ready, waiting = ray.wait(waiting)
        for name, seconds in ray.get(ready):
            print(f"pretrained {name}, seed {recipe.pretrain.seed}, in {seconds:.0f} s", flush=True)


def report(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipes: list[Recipe],
    main_run: str,
    seconds: float,
    cpu_seconds: float,
) -> str:
    """All tables, as Markdown."""
    recipe = recipes[0]
    fractions = recipe.sweep.fractions
    count = recipe.sweep.bootstrap
    frozen = frozen_scores(workspace, cohort, recipes, metrics=FROZEN, seeds=SUBSETS, bootstrap=count)
    swept = swept_scores(workspace, cohort, recipe, run=main_run, metrics=FROZEN, bootstrap=count)
    most = max(fractions)
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Frozen: the method against the others", lambda: findings.differences(frozen, fractions)),
        ("End to end", lambda: findings.claims(swept, fractions)),
        ("Frozen: the scores", lambda: findings.score_tables(frozen, fractions)),
        (
            "What was learned, and what the features hold",
            lambda: findings.why_tables(workspace, cohort, recipe, main_run),
        ),
        ("Learning curves", lambda: findings.curves(workspace, recipe, main_run)),
        ("Cost", lambda: findings.cost_table(workspace, recipe, main_run, seconds, cpu_seconds)),
    ]
    if len(recipes) > 1:
        parts.insert(
            3, (f"Frozen, run by run, {most:.0%} of the labels", lambda: findings.by_run(frozen, most))
        )
    return "\n\n".join(f"### {title}\n\n{make()}" for title, make in parts)


def main() -> None:
    """Run, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", default="runs/evidence", help="(default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks/")
    parser.add_argument(
        "--pretrain-seeds", type=int, default=1, help="runs of each encoder (default: %(default)s)"
    )
    options = parser.parse_args()
    workspace = Workspace(options.workspace)
    recipes = [
        load_recipe("evidence", [*options.overrides, f"pretrain.seed={seed}"])
        for seed in range(options.pretrain_seeds)
    ]
    cohort, main_run, seconds, cpu_seconds = run(workspace, recipes)
    text = report(workspace, cohort, recipes, main_run, seconds, cpu_seconds)
    workspace.write_bytes(text.encode(), "evaluation", main_run, "evidence.md")
    print(text)
    print(f"\nIn {workspace.display('evaluation', main_run)}: evidence.md and report.html")
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
