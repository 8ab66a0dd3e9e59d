"""The tables of the evidence: scores and paired differences, then what explains them."""

from __future__ import annotations

import os

import pandas as pd

from ctplatform.config.recipe import Recipe
from ctplatform.dataset.splits import read_split
from ctplatform.pipeline.records import read_records
from ctplatform.storage.workspace import Workspace
from ctplatform.training.runs import read_metrics
from tests.benchmarks import document, encoded
from tests.benchmarks.scores import Scores, patch_vectors, patient_vectors, runs_of

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


def differences(scores: Scores, fractions: tuple[float, ...]) -> str:
    """The frozen method minus each other frozen representation, paired; a star where the interval leaves zero out."""
    parts = []
    for fraction in fractions:
        rows = []
        for name, title in TITLES.items():
            cells = [
                _difference(scores, task, ("drasclr", fraction), (name, fraction)) for task in scores.tasks
            ]
            if name != "drasclr" and any(cells):
                rows.append([title, *cells])
        heads = [f"{task}, {scores.metric(task)}" for task in scores.tasks]
        parts.append(
            f"DrasCLR minus the other, both frozen, {fraction:.0%} of the labels:\n\n"
            + document.table(["other", *heads], rows)
        )
    return "\n\n".join(parts)


def claims(scores: Scores, fractions: tuple[float, ...]) -> str:
    """What is said of training end to end, each as a difference on the same test subjects."""
    least, most = min(fractions), max(fractions)
    pairs = [
        (("finetune", least), ("scratch", least)),
        (("finetune", least), ("scratch", most)),
        (("finetune", most), ("scratch", most)),
        (("drasclr", least), ("scratch", least)),
        (("drasclr", least), ("scratch", most)),
        (("finetune", least), ("drasclr", least)),
        (("finetune", most), ("drasclr", most)),
        (("finetune", least), ("density", least)),
        (("finetune", most), ("density", most)),
    ]
    rows = [
        [
            f"{task}, {scores.metric(task)}",
            *(
                f"{TITLES[name]}, {fraction:.0%}: {scores.text(task, name, fraction)}"
                for name, fraction in pair
            ),
            _difference(scores, task, *pair),
        ]
        for task in scores.tasks
        for pair in pairs
        if all(scores.has(task, *end) for end in pair)
    ]
    return document.table(["task", "is this", "better than this?", "difference (95%)"], rows)


def _difference(scores: Scores, task: str, a: tuple[str, float], b: tuple[str, float]) -> str:
    if not (scores.has(task, *a) and scores.has(task, *b)):
        return ""
    difference, low, high = scores.difference(task, a, b)
    return f"{difference:+.2f} ({low:+.2f} to {high:+.2f}){' *' if low > 0 or high < 0 else ''}"


def by_run(scores: Scores, fraction: float) -> str:
    """Each pretraining run's score: what the intervals over test subjects do not hold."""
    rows = [
        [title, *(scores.runs(task, name, fraction) for task in scores.tasks)]
        for name, title in TITLES.items()
        if all(scores.has(task, name, fraction) for task in scores.tasks) and name != "density"
    ]
    heads = [f"{task}, {scores.metric(task)}" for task in scores.tasks]
    return document.table(["run by run", *heads], rows)


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
    assert recipe.phantom is not None
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


def cost_table(workspace: Workspace, recipe: Recipe, run: str, seconds: float, cpu_seconds: float) -> str:
    """What the stages took, from their records, the pretraining runs, and this call."""
    rows = [
        [record.stage, f"{record.seconds:.0f}", record.text.replace(f"{workspace.display()}/", "")]
        for record in sorted(read_records(workspace), key=lambda record: record.started)
        if record.state == "finished" and record.stage != "pretrain"
    ]
    rows += [
        [f"pretrain, {TITLES[name]}", f"{read_metrics(workspace, source)[-1]['seconds']:.0f}", "one process"]
        for name, source, encoder in runs_of(workspace, recipe, run)
        if encoder == "drasclr"
    ]
    rows.append(
        [
            "this call",
            f"{seconds:.0f}",
            f"{cpu_seconds:.0f} CPU-seconds, {os.cpu_count()} cores, load average {os.getloadavg()[1]:.0f}",
        ]
    )
    return document.table(["stage", "seconds", "what"], rows)
