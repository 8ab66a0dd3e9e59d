"""The demo-scale evidence: `python -m tests.benchmarks.evidence --workspace FOLDER`, or `make evidence`.

Runs the recipe `evidence` on a synthetic cohort (pretraining, its ablations, embedding, end-to-end training, report),
fits the frozen heads of every task with many label subsets, and prints what comes out as Markdown: each claim with its
paired difference and interval, then why. `--write` puts it into docs/benchmarks.md. What was finished before is not
done again, so the same call goes on after an interruption.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ctplatform.ablations import ablated
from ctplatform.config import Recipe, load_recipe
from ctplatform.console import Console
from ctplatform.demo import phantom_cohort
from ctplatform.pipeline import run_chain
from ctplatform.records import read_records
from ctplatform.session import ray_session
from ctplatform.workspace import Workspace
from tests.benchmarks import document, encoded
from tests.benchmarks.cost import CpuTime
from tests.benchmarks.scores import Scores, frozen_scores, swept_scores

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
TITLES = {
    "drasclr": "DrasCLR, frozen",
    "finetune": "DrasCLR, fine-tuned",
    "scratch": "from scratch",
    "random": "random encoder, frozen",
    "local": "local loss only",
    "global": "global loss only",
    "none": "no conditioning (E = 1)",
    "moco": "local loss only, no conditioning",
    "density": "density (LAA-950, Perc15, volume)",
}
SUBSETS = 10  # of the labels, a fraction


def run(workspace: Workspace, recipe: Recipe) -> tuple[pd.DataFrame, str, float, float]:
    """Everything that computes: (cohort, main run, wall seconds, CPU seconds) of this call."""
    assert recipe.phantom is not None
    start = time.monotonic()
    with CpuTime() as cpu, ray_session(recipe.ray):
        cohort = phantom_cohort(workspace, recipe.phantom)
        run_chain(workspace, cohort, recipe, Console(), last="split")
        if recipe.pretrain.num_workers == 0:
            pretrain_side_by_side(workspace, recipe)
        outcome = run_chain(workspace, cohort, recipe, Console())
    return cohort, outcome.run, time.monotonic() - start, cpu.seconds


def pretrain_side_by_side(workspace: Workspace, recipe: Recipe) -> None:
    """The recipe's own run and its ablations, one process each and as many at a time as there are cores."""
    import ray

    from ctplatform.pretrain import pretrain

    @ray.remote(num_cpus=1)
    def train(name: str, one: Recipe) -> tuple[str, float]:
        return name, pretrain(workspace, one).seconds

    recipes = {"drasclr": recipe, **{name: ablated(recipe, name) for name in recipe.sweep.ablations}}
    waiting = [train.remote(name, one) for name, one in recipes.items()]
    while waiting:
        ready, waiting = ray.wait(waiting)
        for name, seconds in ray.get(ready):
            print(f"pretrained {name} in {seconds:.0f} s", flush=True)


def claims(frozen: Scores, swept: Scores, fractions: tuple[float, ...]) -> str:
    """What is claimed, each as a difference on the same test subjects."""
    least, most = min(fractions), max(fractions)
    rows: list[list[str]] = []

    def add(scores: Scores, claim: str, task: str, a: tuple[str, float], b: tuple[str, float]) -> None:
        if not (scores.has(task, *a) and scores.has(task, *b)):
            return
        difference, low, high = scores.difference(task, a, b)
        verdict = "yes" if low > 0 else "no: the contrary" if high < 0 else "not shown"
        rows.append(
            [
                claim,
                f"{task}, {scores.metric(task)}",
                scores.text(task, *a, interval=False),
                scores.text(task, *b, interval=False),
                f"{difference:+.2f} ({low:+.2f} to {high:+.2f})",
                verdict,
            ]
        )

    for fraction in (least, most):
        labels = f"{fraction:.0%} of the labels"
        for task in ("emphysema_extent", "emphysema", "gold_stage"):
            for other in ("random", "none", "local", "global", "moco", "density"):
                claim = f"frozen DrasCLR > {TITLES[other].removesuffix(', frozen')}, {labels}"
                add(frozen, claim, task, ("drasclr", fraction), (other, fraction))
    for task in swept.tasks:
        tuned, scratch = "fine-tuned DrasCLR", "from scratch"
        for a, b in ((least, least), (least, most), (most, most)):
            claim = f"{tuned} at {a:.0%} > {scratch} at {b:.0%} of the labels"
            add(swept, claim, task, ("finetune", a), ("scratch", b))
            claim = f"frozen DrasCLR at {a:.0%} > {scratch} at {b:.0%}"
            add(swept, claim, task, ("drasclr", a), ("scratch", b))
        for fraction in (least, most):
            add(
                swept,
                f"{tuned} > frozen, {fraction:.0%} of the labels",
                task,
                ("finetune", fraction),
                ("drasclr", fraction),
            )
            add(
                swept,
                f"{tuned} > density, {fraction:.0%} of the labels",
                task,
                ("finetune", fraction),
                ("density", fraction),
            )
    return document.table(["claim", "task, metric", "first", "second", "difference (95%)", "holds"], rows)


def score_tables(scores: Scores, fractions: tuple[float, ...]) -> str:
    """One table a fraction: initialisations in rows, tasks in columns."""
    parts = []
    for fraction in fractions:
        heads = [f"{task}, {scores.metric(task)}" for task in scores.tasks]
        rows = [
            [TITLES[name], *(scores.text(task, name, fraction) for task in scores.tasks)]
            for name in TITLES
            if all(scores.has(task, name, fraction) for task in scores.tasks)
        ]
        count = scores.n_train(scores.tasks[0], fraction)
        size = f"{count} subjects, {scores.seeds} subsets; {scores.n_test} test subjects"
        parts.append(
            f"{fraction:.0%} of the labels ({size}):\n\n" + document.table(["initialisation", *heads], rows)
        )
    return "\n\n".join(parts)


def why_tables(workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, run: str) -> str:
    """Learning and collapse of each run, and what its features hold."""
    from tests.benchmarks.scores import patch_vectors, patient_vectors, runs_of

    assert recipe.phantom is not None
    from ctplatform.splits import read_split

    split = read_split(workspace)
    cohort = cohort.set_index(cohort["subject_id"].astype(str), drop=False)
    truth = encoded.truths(cohort, recipe.phantom)
    learned, held = [], []
    names = []
    for name, source, encoder in runs_of(workspace, recipe, run):
        subjects, x_ND = patient_vectors(workspace, recipe, source, encoder)
        rank, first = encoded.spectrum(x_ND)
        shares = ["", ""]
        if encoder != "density":
            shares = [
                f"{share:.2f}"
                for share in encoded.variance_shares(*patch_vectors(workspace, source, encoder))
            ]
        learned.append(
            [TITLES[name], *_training(workspace, source, encoder), f"{rank:.1f}", f"{first:.2f}", *shares]
        )
        train = [i for i, s in enumerate(subjects) if s in set(split.train)]
        test = [i for i, s in enumerate(subjects) if s in set(split.test)]
        table = truth.loc[subjects]
        held.append(
            [
                encoded.explained(
                    x_ND[train], x_ND[test], column.to_numpy(float)[train], column.to_numpy(float)[test]
                )
                for _, column in table.items()
            ]
        )
        names.append(TITLES[name])
    monitors = document.table(
        [
            "run",
            "steps",
            "loss",
            "local",
            "global",
            "top-1",
            "uniformity",
            "rank of a batch",
            "anchors/s",
            "rank over scans",
            "first component",
            "place",
            "scan",
        ],
        learned,
    )
    holds = document.table(
        ["quantity, R2 on test scans", *names],
        [[str(column), *(f"{values[i]:.2f}" for values in held)] for i, column in enumerate(truth.columns)],
    )
    return monitors + "\n\n" + holds


def _training(workspace: Workspace, run: str, encoder: str) -> list[str]:
    from ctplatform.pretrain import read_metrics

    if encoder != "drasclr":
        return [""] * 8
    lines = read_metrics(workspace, run)
    # Single batches are noisy: the mean of what was logged over the last fifth of the steps.
    late = pd.DataFrame(lines[-max(1, len(lines) // 5) :]).mean(numeric_only=True)
    return [
        f"{lines[-1]['step']}",
        *(f"{late[key]:.2f}" for key in ("loss", "local", "global", "top1", "uniformity")),
        f"{late['effective_rank']:.1f}",
        f"{lines[-1]['patches_per_s']:.0f}",
    ]


def curves(workspace: Workspace, recipe: Recipe, run: str) -> str:
    """How the losses and the collapse monitors went, five points a run."""
    from ctplatform.pretrain import read_metrics
    from tests.benchmarks.scores import runs_of

    rows = []
    for name, source, encoder in runs_of(workspace, recipe, run):
        if encoder != "drasclr":
            continue
        table = pd.DataFrame(read_metrics(workspace, source))
        for part in range(5):
            some = table[(table["step"] - 1) * 5 // table["step"].max() == part]
            mean = some.mean(numeric_only=True)
            rows.append(
                [
                    TITLES[name],
                    f"{some['step'].min():.0f} to {some['step'].max():.0f}",
                    *(f"{mean[key]:.2f}" for key in ("local", "global", "top1", "alignment", "uniformity")),
                    f"{mean['effective_rank']:.1f}",
                    f"{mean['negatives']:.0f}",
                ]
            )
    return document.table(
        [
            "run",
            "steps",
            "local",
            "global",
            "top-1",
            "alignment",
            "uniformity",
            "rank of a batch",
            "negatives",
        ],
        rows,
    )


def cost_table(workspace: Workspace, seconds: float, cpu_seconds: float) -> str:
    """What the stages took, from their records, and this call."""
    rows = [
        [record.stage, f"{record.seconds:.0f}", record.text]
        for record in sorted(read_records(workspace), key=lambda record: record.started)
    ]
    rows.append(
        [
            "this call",
            f"{seconds:.0f}",
            f"{cpu_seconds:.0f} CPU-seconds, {os.cpu_count()} cores, load average {os.getloadavg()[1]:.0f}",
        ]
    )
    return document.table(["stage", "seconds", "what"], rows)


def main() -> None:
    """Run, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", default="runs/evidence", help="(default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    workspace, recipe = Workspace(options.workspace), load_recipe("evidence", options.overrides)
    cohort, main_run, seconds, cpu_seconds = run(workspace, recipe)
    fractions = recipe.sweep.fractions
    count = recipe.sweep.bootstrap
    frozen = frozen_scores(
        workspace, cohort, recipe, run=main_run, metrics=FROZEN, seeds=SUBSETS, bootstrap=count
    )
    swept = swept_scores(workspace, cohort, recipe, run=main_run, metrics=FROZEN, bootstrap=count)
    parts: list[tuple[str, Callable[[], str]]] = [
        ("What is claimed, and what came out", lambda: claims(frozen, swept, fractions)),
        ("Frozen representations", lambda: score_tables(frozen, fractions)),
        ("Trained end to end", lambda: score_tables(swept, fractions)),
        (
            "What was learned, and what the features hold",
            lambda: why_tables(workspace, cohort, recipe, main_run),
        ),
        ("Learning curves", lambda: curves(workspace, recipe, main_run)),
        ("Cost", lambda: cost_table(workspace, seconds, cpu_seconds)),
    ]
    text = "\n\n".join(f"### {title}\n\n{make()}" for title, make in parts)
    workspace.write_bytes(text.encode(), "evaluation", main_run, "evidence.md")
    print(text)
    print(f"\nIn {workspace.display('evaluation', main_run)}: evidence.md and report.html")
    if options.write:
        document.replace(Path(__file__).parents[2] / "docs" / "benchmarks.md", SECTION, text)


if __name__ == "__main__":
    main()
