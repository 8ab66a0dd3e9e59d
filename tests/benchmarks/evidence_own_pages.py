"""The sections of docs/benchmarks/evidence.md on tasks that density fails at and on real tissue."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import document, evidence_tasks, evidence_tissue, evidence_zones
from tests.benchmarks.evidence_parts import BEST_RANDOM, DENSITY, HISTOGRAM, MAIN, RANDOM
from tests.benchmarks.evidence_real import REAL

TASKS = {
    "emphysema_extent": "extent, several scanners (rho)",
    "subtype": "subtype at equal extent (AUROC)",
    "cyst_place": "cysts, place (AUROC)",
    "airway_wall": "airway wall, Pi10 (rho)",
    "interstitial_change": "interstitial change (AUROC)",
    "opacity_lobe": "opacity, lobe (AUROC)",
}
METHODS = {
    MAIN: "pretrained, frozen",
    RANDOM: "random encoder, frozen",
    BEST_RANDOM: "random encoder, the representation best for it",
    DENSITY: "density (LAA-950, Perc15, volume)",
    evidence_zones.ZONES: "density of six zones (LAA-950, mean)",
    HISTOGRAM: "histogram of the patches",
    evidence_tasks.SCRATCH: "from scratch, steps of the sweep",
    evidence_tasks.CEILING: "from scratch, three times the steps",
}
POOLED = {
    "mean": "mean over all places",
    "standardised_spread": "mean and spread",
    "standardised_gradient": "mean, spread and gradient",
    "zones": "means of six zones",
}
TISSUE = {
    f"{MAIN} {evidence_tissue.MULTISCALE}": "pretrained on phantoms, all scales",
    f"{RANDOM} {evidence_tissue.MULTISCALE}": "random encoder, all scales",
    f"{MAIN} {evidence_tissue.LAST}": "pretrained on phantoms, last layer",
    f"{RANDOM} {evidence_tissue.LAST}": "random encoder, last layer",
    f"{REAL} {evidence_tissue.MULTISCALE}": "pretrained on six real CTs, all scales",
    f"{REAL} {evidence_tissue.LAST}": "pretrained on six real CTs, last layer",
    evidence_tissue.HISTOGRAM: "histogram of 32 bins",
    evidence_tissue.MOMENTS: "mean, SD, LAA-950",
}


def tasks_section(claim: dict[str, Any]) -> str:
    """Differences and scores of the tasks that density fails at, as Markdown."""
    heads = [TASKS[task] for task in claim["tasks"]]
    few, most = claim["few_labels"]["labels"], claim["labels"]
    compared = {
        f"{METHODS[DENSITY]}": claim["tasks"],
        f"the same, {few} labels": claim["few_labels"]["tasks"],
        **{METHODS[name]: tasks for name, tasks in claim["against"].items()},
    }
    means = {
        METHODS[DENSITY]: claim,
        **{METHODS[name]: mean for name, mean in claim["against_means"].items()},
    }
    rows = [
        [
            title,
            *(_difference(tasks[task]) for task in claim["tasks"]),
            _interval(means[title]) if title in means else "",
        ]
        for title, tasks in compared.items()
    ]
    counts = claim["counts"].values()
    rows += [["labelled subjects, training / test", *(f"{c['train']} / {c['test']}" for c in counts), ""]]
    parts = [
        f"Pretrained (frozen) against each, with {most} labels unless said:\n\n"
        + document.table(["", *heads, "mean of the tasks"], rows)
    ]
    for labels in (few, most):
        rows = [
            [
                title,
                *(_values(claim["scores"][name].get(task, {}).get(str(labels))) for task in claim["tasks"]),
            ]
            for name, title in METHODS.items()
            if any(str(labels) in found for found in claim["scores"].get(name, {}).values())
        ]
        parts.append(f"Scores with {labels} labels, seed by seed:\n\n" + document.table(["", *heads], rows))
    rows = [
        [f"{METHODS[encoder]}, {title}", *(f"{found[name][task]:.2f}" for task in claim["tasks"])]
        for encoder, found in claim["kept_place"].items()
        for name, title in POOLED.items()
    ]
    parts.append(
        f"Where place goes, looked at afterwards: last layer, standardised at each place, {most} labels, mean over "
        "seeds:\n\n" + document.table(["", *heads], rows)
    )
    parts.append(
        "The representation (bold: chosen) by its mean score over the tasks, validated among the training subjects of "
        "the development cohorts, with few labels and by cross-validation with all:\n\n" + _candidates(claim)
    )
    return "\n\n".join(parts)


def tissue_section(claim: dict[str, Any]) -> str:
    """Differences and balanced accuracies on real tissue, as Markdown."""
    shots = list(claim["shots"])
    heads = [f"{number} labels a class" for number in shots]
    compared = {
        "random encoder, all scales": claim["shots"],
        "random encoder, both last layer": claim["last_layer"],
        "histogram (pretrained: all scales)": claim["against_histogram"],
    }
    if "real_cts_against_random" in claim:
        compared |= {
            "of six real CTs instead, against the random encoder": claim["real_cts_against_random"],
            "of six real CTs, against that of phantoms": claim["real_cts_against_phantoms"],
        }
    rows = [[title, *(_difference(found[number]) for number in shots)] for title, found in compared.items()]
    first = "Pretrained against each, balanced accuracy:\n\n" + document.table(["", *heads], rows)
    rows = [
        [title, *(_values(claim["accuracies"][name][number]) for number in shots)]
        for name, title in TISSUE.items()
        if name in claim["accuracies"]
    ]
    return first + "\n\nSeed by seed, mean over draws:\n\n" + document.table(["", *heads], rows)


def write(evidence: dict[str, Any]) -> None:
    """Put the sections whose claims are there into the page."""
    claims = {claim["name"]: claim for claim in evidence["claims"]}
    if evidence_tasks.NAME in claims:
        document.replace("Tasks that density fails at", tasks_section(claims[evidence_tasks.NAME]))
    if evidence_tissue.NAME in claims:
        document.replace("Real tissue", tissue_section(claims[evidence_tissue.NAME]))


def _candidates(claim: dict[str, Any]) -> str:
    found = claim["representation"]

    def cell(encoder: str, name: str) -> str:
        mean = f"{found[encoder]['candidates'][name]:.3f}"
        return f"**{mean}**" if found[encoder]["chosen"] == name else mean

    rows = [[name, cell(MAIN, name), cell(RANDOM, name)] for name in found[MAIN]["candidates"]]
    return document.table(["features, pooling", METHODS[MAIN], METHODS[RANDOM]], rows)


def _difference(found: dict[str, Any]) -> str:
    return f"{found['value']:.2f} / {found['other']:.2f} {_interval(found)}"


def _interval(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    star = " *" if low > 0 or high < 0 else ""
    return f"{found['difference']:+.2f} ({low:+.2f} to {high:+.2f}){star}"


def _values(values: list[float] | None) -> str:
    return " / ".join(f"{value:.2f}" for value in values or [])
