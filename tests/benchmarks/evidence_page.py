"""docs/benchmarks/evidence.md and its picture, from docs/evidence.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ctplatform.report import style
from tests.benchmarks import document, evidence_own_pages

SECTION = "Evidence, tables"
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "evidence.svg"
METHODS = {
    "local": "pretrained, frozen",
    "finetune": "pretrained, fine-tuned",
    "scratch": "from scratch",
    "random": "random encoder, frozen",
    "best random": "random encoder, the representation best for it",
    "density": "density (LAA-950, Perc15, volume)",
    "histogram": "histogram of the patches",
    "both": "both losses, frozen",
    "unconditioned": "no conditioning (E = 1), frozen",
    "once": "both losses, each patch encoded once, frozen",
}
TASKS = {
    "emphysema_extent": "extent (rho)",
    "emphysema": "emphysema (AUROC)",
    "gold_stage": "GOLD (kappa)",
    "fev1pp": "FEV1 (rho)",
    "paraseptal": "paraseptal (AUROC)",
    "panlobular_share": "panlobular share (rho)",
    "paraseptal_share": "paraseptal share (rho)",
    "extent_other_kernel": "extent, other kernels (R2)",
}
#: In the picture, in this order.
SHOWN = {"local": "drasclr", "scratch": "scratch", "random": "random", "density": "density"}


def tables(evidence: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    few, most = evidence["labels"]["few"], evidence["labels"]["all"]
    parts = [_claims(evidence["claims"])]
    parts += [_tasks(claim) for claim in evidence["claims"] if "tasks" in claim and "section" not in claim]
    parts += [_collapse(claim) for claim in evidence["claims"] if claim["name"] == "no_collapse"]
    parts += [_efficiency(claim) for claim in evidence["claims"] if claim["name"] == "efficiency"]
    parts += [_scores(evidence["scores"], labels) for labels in (few, most)]
    parts.append(_why(evidence["why"]))
    parts.append(_representations(evidence["representation"], evidence["representations"]))
    return "\n\n".join(part for part in parts if part)


def picture(evidence: dict[str, Any]) -> str:
    """Scores with few labels, one row a task and a marker a method, as SVG."""
    scores, few = evidence["scores"], str(evidence["labels"]["few"])
    tasks = [task for task in TASKS if few in scores.get("scratch", {}).get(task, {})]
    looks = style.styles(SHOWN.values())

    def draw(axes: Axes) -> None:
        for y, task in enumerate(reversed(tasks)):
            for method, name in SHOWN.items():
                values = scores.get(method, {}).get(task, {}).get(few)
                if values:
                    colour, marker = looks[name]
                    label = METHODS[method] if y == 0 else None
                    axes.plot(_mean(values), y, marker, color=colour, markersize=8, label=label)
        axes.set_yticks(range(len(tasks)), [TASKS[task] for task in reversed(tasks)])
        axes.set_ylim(-0.6, len(tasks) - 0.4)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"score with {few} labels, {evidence['n_test']} held-out subjects of two cohorts")
        axes.figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8.5)

    return style.chart("evidence", draw, width=6.0, height=0.9 + 0.6 * len(tasks))


def write(evidence: dict[str, Any]) -> None:
    """Put the tables into the page, and the picture beside it."""
    document.replace(SECTION, tables(evidence))
    evidence_own_pages.write(evidence)
    PICTURE.write_text(picture(evidence) + "\n", encoding="utf-8")


def _claims(claims: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"`{claim['name']}`",
            "yes" if claim["holds"] else "no",
            claim["needed"],
            f"{claim['difference']:+.2f} {_interval(claim['interval'])}" if "difference" in claim else "",
        ]
        for claim in claims
    ]
    return document.table(["claim", "holds", "what it needs", "mean difference over its tasks (95%)"], rows)


def _tasks(claim: dict[str, Any]) -> str:
    heads = [TASKS[task] for task in claim["tasks"]]
    if claim["name"] == "labels_saved":
        rows = [
            ["from scratch, all labels", *(f"{found['scratch']:.2f}" for found in claim["tasks"].values())],
            [
                "labels of the frozen pretrained encoder",
                *(_labels(found["labels"]) for found in claim["tasks"].values()),
            ],
            [
                "95% interval",
                *(" to ".join(map(_labels, found["interval"])) for found in claim["tasks"].values()),
            ],
        ]
        return f"`{claim['name']}`:\n\n" + document.table(["", *heads], rows)
    parts = {f"with {claim['labels']} labels" if "labels" in claim else "": claim["tasks"]}
    if "all_labels" in claim:
        parts["with all labels"] = claim["all_labels"]
    if "cohorts" in claim:
        parts |= {f"{name} cohort": tasks for name, tasks in claim["cohorts"].items()}
    rows = [
        [
            title,
            *(
                f"{found['value']:.2f} / {found['other']:.2f} {found['difference']:+.2f} "
                f"{_interval(found['interval'])}{_star(found['interval'])}"
                for found in tasks.values()
            ),
        ]
        for title, tasks in parts.items()
    ]
    return f"`{claim['name']}`.{_costs(claim)}\n\n" + document.table(["", *heads], rows)


def _costs(claim: dict[str, Any]) -> str:
    """What both variants cost, and what their training looked like, where the claim compares variants."""
    parts = []
    for name, seconds in claim.get("cpu_seconds", {}).items():
        entropy = claim["expert_entropy"].get(name)
        routing = f", entropy of the routing at step 1 and at the end {_pairs(entropy)}" if entropy else ""
        title = METHODS[name][0].upper() + METHODS[name][1:]
        top1 = ", ".join(f"{value:.2f}" for value in claim["top1"][name])
        parts.append(
            f" {title}: {claim['steps'][name]} steps, {', '.join(map(str, seconds))} CPU-seconds, top-1 at the end "
            f"{top1}{routing}."
        )
    return "".join(parts)


def _pairs(values: list[list[float]]) -> str:
    return ", ".join(" and ".join(f"{value:.3f}" for value in pair) for pair in values)


def _efficiency(claim: dict[str, Any]) -> str:
    rows = [
        [
            name,
            found["metric"],
            f"{found['other']:.2f}",
            f"{found['with_the_same_pooling']:.2f}",
            f"{found['value']:.2f}",
            f"{found['difference']:+.2f} {_interval(found['interval'])}",
        ]
        for name, found in claim["scores"].items()
    ]
    seconds = {name: ", ".join(map(str, values)) for name, values in claim["cpu_seconds"].items()}
    return (
        f"`efficiency`: recipe `demo` of version 0.1.0 ({seconds['0.1.0']} CPU-seconds a seed) and today's with so few "
        f"steps ({seconds['today']}), {claim['seeds']} pretraining seed(s), {claim['n']} test subjects:\n\n"
    ) + document.table(
        ["task", "score", "0.1.0", "0.1.0, today's pooling", "today", "today less 0.1.0 (95%)"], rows
    )


def _collapse(claim: dict[str, Any]) -> str:
    rows = [
        [
            str(run["seed"]),
            f"{run['rank_start']:.1f} / {run['rank_end']:.1f}",
            f"{run['uniformity']:.2f}",
            f"{run['top1']:.2f}",
            f"{run['chance']:.3f}",
        ]
        for run in claim["runs"]
    ]
    return "`no_collapse`:\n\n" + document.table(
        ["seed", "rank of a batch, start / end", "uniformity", "top-1", "chance"], rows
    )


def _scores(scores: dict[str, Any], labels: int) -> str:
    rows = [
        [
            title,
            *(
                " / ".join(f"{value:.2f}" for value in scores[method].get(task, {}).get(str(labels), []))
                for task in TASKS
            ),
        ]
        for method, title in METHODS.items()
        if method in scores
    ]
    return f"Scores with {labels} labels, seed by seed:\n\n" + document.table(["", *TASKS.values()], rows)


def _why(why: dict[str, Any]) -> str:
    if not why:
        return ""
    names = list(next(iter(why.values())))
    heads = ["variance between places", "variance between scans", *(f"{name}, R2" for name in names[2:])]
    rows = [[METHODS[encoder], *(f"{found[name]:.2f}" for name in names)] for encoder, found in why.items()]
    return "What the features hold, first cohort, mean over seeds:\n\n" + document.table(["", *heads], rows)


def _representations(chosen: dict[str, Any], fresh: dict[str, Any]) -> str:
    picks = {
        "local": f"{chosen['features']} {chosen['pooling']}",
        "random": f"{chosen['random_features']} {chosen['random_pooling']}",
    }
    validated = {"local": chosen["validated"], "random": chosen["random_validated"]}

    def cell(value: float, *, picked: bool) -> str:
        return f"**{value:.3f}**" if picked else f"{value:.3f}"

    rows = [
        [
            name,
            *(cell(validated[encoder][name], picked=name == picks[encoder]) for encoder in picks),
            *(f"{fresh[name][encoder][labels]:.3f}" for labels in ("few", "all") for encoder in picks),
        ]
        for name in chosen["validated"]
    ]
    heads = ["features, pooling", "validated: pretrained", "validated: random"]
    heads += [
        f"fresh, {labels} labels: {encoder}"
        for labels in ("few", "all")
        for encoder in ("pretrained", "random")
    ]
    return (
        "Representations of a patient, mean score over five tasks. Validated on the development cohort's training "
        "subjects, with few labels and by cross-validation with all: what the choices (bold) were made by. On the "
        "fresh cohorts: what came of it, looked at afterwards.\n\n" + document.table(heads, rows)
    )


def _interval(ends: list[float]) -> str:
    return f"({ends[0]:+.2f} to {ends[1]:+.2f})"


def _star(ends: list[float]) -> str:
    return " *" if ends[0] > 0 or ends[1] < 0 else ""


def _labels(number: float | None) -> str:
    return "not reached" if number is None else f"{number:g}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
