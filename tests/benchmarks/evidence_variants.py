"""Whether parts of the method pay: pretraining with a part against pretraining without it, for the same CPU time.

A variant's steps are those that cost what the 400 steps of the main encoders cost (`tests.benchmarks.evidence_parts`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.benchmarks import evidence_parts as parts
from tests.benchmarks.evidence_parts import ALL, FEW, MAIN, SEEDS

if TYPE_CHECKING:
    from tests.benchmarks.evidence_claims import Claims

#: Claim -> the variant with the part, and the one without.
COMPARED = {
    "conditioning_pays": (MAIN, "unconditioned"),
    "global_pays": ("both", MAIN),
    "encode_once_loses_nothing": ("once", "both"),
}
#: Variants of the claims that `make evidence` makes; the other claim has a target of its own.
CLAIMED = ("unconditioned", "both")
ASIDE = "encode_once_loses_nothing"
#: Lines of the log at either end that the entropy of the routing is averaged over.
LINES = 3


def pays(claims: Claims, name: str) -> dict[str, Any]:
    """With a part of the method against without it, few labels and all; with the cost of both and the routing.

    Compares the seeds that both variants have; with fewer than all seeds no claim holds.

    Raises:
        FileNotFoundError: a variant has not been run.
    """
    first, second = COMPARED[name]
    names = (*parts.tasks(), *parts.SHARES)
    seeds = tuple(seed for seed in SEEDS if all(_probed(claims, v, seed) for v in (first, second)))
    if not seeds:
        raise FileNotFoundError(f"{name}: {first} and {second} have no seed in common")
    found = {labels: claims.frozen(name, first, second, labels, names, seeds=seeds) for labels in (FEW, ALL)}
    least, how = (0.0, "not below 0") if name == "encode_once_loses_nothing" else (1e-9, "above 0")
    runs = {variant: [pretrained(claims, variant, seed) for seed in seeds] for variant in (first, second)}
    return found[FEW] | {
        "holds": seeds == SEEDS and all(one["interval"][0] >= least for one in found.values()),
        "needed": f"{len(SEEDS)} seeds, and the interval of the mean over tasks {how}, with few labels and with all",
        "all_labels": found[ALL]["tasks"],
        "interval_all_labels": found[ALL]["interval"],
        "difference_all_labels": found[ALL]["difference"],
        "with": first,
        "without": second,
        "seeds": len(seeds),
        "steps": {variant: of[0]["steps"] for variant, of in runs.items()},
        "cpu_seconds": {variant: [round(whole_cost(run)) for run in of] for variant, of in runs.items()},
        "top1": {variant: [_ends(run["log"], "top1")[1] for run in of] for variant, of in runs.items()},
        "expert_entropy": {
            variant: [_ends(run["log"], "expert_entropy") for run in of]
            for variant, of in runs.items()
            if variant != "unconditioned"  # it has a single expert
        },
    }


def claim_aside(evidence: parts.Evidence) -> dict[str, Any]:
    """The claim that has a target of its own.

    Raises:
        FileNotFoundError: a variant has not been run.
    """
    from tests.benchmarks.evidence_claims import Claims

    return pays(Claims(evidence), ASIDE)


def _probed(claims: Claims, variant: str, seed: int) -> bool:
    return all(claims.evidence.probed_file(cohort, variant, seed).exists() for cohort in parts.FRESH)


def pretrained(claims: Claims, variant: str, seed: int) -> dict[str, Any]:
    """What pretraining left: CPU-seconds, steps and log."""
    path = claims.evidence.pretrained(variant, seed)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def whole_cost(run: dict[str, Any]) -> float:
    """CPU-seconds of all steps, where a run was interrupted as well: as many a step as those after it took."""
    seconds, steps = float(run["cpu_seconds"]), int(run["steps"])
    return seconds * steps / (steps - int(run["resumed_at"]))


def _ends(log: list[dict[str, Any]], key: str) -> list[float]:
    """The mean of the first and of the last lines."""
    means = [sum(line[key] for line in lines) / len(lines) for lines in (log[:1], log[-LINES:])]
    return [round(value, 3) for value in means]
