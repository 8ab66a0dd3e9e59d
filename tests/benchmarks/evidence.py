"""What pretraining gives, claim by claim: `python -m tests.benchmarks.evidence --folder FOLDER`, or `make evidence`.

Encoders are pretrained on the cohort of recipe `demo`, with three seeds, and applied to two cohorts on which nothing
was chosen. Prints the claims; with `--write` they are stored in docs/evidence.json. Parts that are finished are not
made again, so the same call resumes an interrupted run; claims whose parts are missing are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import evidence_efficiency, evidence_page, evidence_tasks, evidence_tissue
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    DENSITY,
    DEVELOPMENT,
    FEW,
    FRESH,
    HISTOGRAM,
    MAIN,
    PROCESSES,
    RANDOM,
    SEEDS,
    TRAINED,
    VARIANTS,
    Evidence,
)

RESULT = Path(__file__).resolve().parents[2] / "docs" / "evidence.json"
Part = tuple[Path, list[str]]  # the result, and the method with its arguments
#: Parts that are no methods of `Evidence`.
OTHER_PARTS: dict[str, Callable[..., None]] = {
    "task_choose": evidence_tasks.choose,
    "task_heads": evidence_tasks.heads,
    "task_networks": evidence_tasks.networks,
    "tissue": evidence_tissue.score,
}
#: Claims of modules of their own: their phases, and what makes the claim of the results.
OWN_CLAIMS = {
    evidence_tasks.NAME: (evidence_tasks.phases, evidence_tasks.claim),
    evidence_tissue.NAME: (evidence_tissue.phases, evidence_tissue.claim),
}


def phases(evidence: Evidence, *, only: list[str] | None = None) -> list[list[Part]]:
    """All parts, in phases: parts of one phase do not depend on each other.

    With `only`, encoders are pretrained and the representation chosen as ever, and then the parts of these claims run.
    """

    def pretrained(variant: str) -> list[Part]:
        return [(evidence.pretrained(variant, seed), ["pretrain", variant, str(seed)]) for seed in SEEDS]

    def encoded(cohorts: tuple[str, ...], encoder: str, seeds: tuple[int, ...] = SEEDS) -> list[Part]:
        return [
            (evidence.features_file(cohort, encoder, seed), ["features", cohort, encoder, str(seed)])
            for cohort in cohorts
            for seed in seeds
        ]

    def probed(encoder: str, seeds: tuple[int, ...] = SEEDS) -> list[Part]:
        return [
            (evidence.probed_file(cohort, encoder, seed), ["probe", cohort, encoder, str(seed)])
            for cohort in FRESH
            for seed in seeds
        ]

    def trained(start: str, labels: int, numbers: tuple[int, ...]) -> list[Part]:
        return [
            (
                evidence.trained_file(cohort, task, start, labels, number),
                ["train", cohort, task, start, str(labels), str(number)],
            )
            for number in numbers
            for task in TRAINED
            for cohort in FRESH
        ]

    own = [
        phase
        for name, (phases_of, _) in OWN_CLAIMS.items()
        if only is None or name in only
        for phase in phases_of(evidence)
    ]
    start = [[(evidence.prepared(DEVELOPMENT), ["prepare", DEVELOPMENT])], pretrained(MAIN)]
    choice = [
        encoded((DEVELOPMENT,), MAIN) + encoded((DEVELOPMENT,), RANDOM),
        [(evidence.representation_file(), ["choose"])],
    ]
    if only is not None:
        return [*start, *([] if evidence.representation_file().exists() else choice), *own]
    fresh = tuple(FRESH)
    return [
        *start,
        [(evidence.prepared(cohort), ["prepare", cohort]) for cohort in FRESH],
        *choice,
        encoded(fresh, MAIN) + encoded(fresh, RANDOM),
        probed(MAIN) + probed(RANDOM) + probed(BEST_RANDOM) + probed(DENSITY, (0,)) + probed(HISTOGRAM, (0,)),
        trained("scratch", FEW, SEEDS) + trained("finetune", FEW, SEEDS),
        trained("scratch", ALL, SEEDS[:1]),
        *(
            phase
            for variant in VARIANTS
            if variant != MAIN
            for phase in (pretrained(variant), encoded(fresh, variant), probed(variant))
        ),
        *own,
        [(evidence_efficiency.split_file(evidence), ["demo_sized"])],
        [
            (evidence_efficiency.result_file(evidence, case, seed), ["efficiency", case, str(seed)])
            for seed in SEEDS
            for case in evidence_efficiency.CASES
        ],
    ]


def run(evidence: Evidence, parts: list[Part]) -> None:
    """Run the parts that are missing, some at a time, each in a process of its own.

    Raises SystemExit where one fails; the others are waited for.
    """
    waiting = [part for part in parts if not part[0].exists()]
    running: dict[subprocess.Popen[bytes], tuple[float, list[str]]] = {}
    failed = []
    while waiting or running:
        while waiting and len(running) < PROCESSES:
            _, arguments = waiting.pop(0)
            command = [sys.executable, "-m", "tests.benchmarks.evidence", "--folder", str(evidence.folder)]
            process = subprocess.Popen([*command, "--part", *arguments], env=_environment())
            running[process] = (time.monotonic(), arguments)
        for process in [process for process in running if process.poll() is not None]:
            start, arguments = running.pop(process)
            outcome = f"{time.monotonic() - start:.0f} s" if process.returncode == 0 else "failed"
            print(f"{' '.join(arguments)}: {outcome}", flush=True)
            failed += [arguments] if process.returncode else []
        time.sleep(0.2)
    if failed:
        raise SystemExit(f"{len(failed)} part(s) failed; the same call tries them again")


def _replaced(evidence: Evidence, names: list[str]) -> dict[str, Any]:
    """docs/evidence.json with these claims made anew; one whose parts are missing stays as it is."""
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    claims = {claim["name"]: claim for claim in found["claims"]}
    for name in names:
        try:
            claims[name] = OWN_CLAIMS[name][1](evidence)
        except FileNotFoundError:
            continue
    return found | {"claims": list(claims.values())}


def _environment() -> dict[str, str]:
    from ctplatform.training.pretrain import MALLOC

    return {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Run what is missing, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="runs/evidence", help="(default: %(default)s)")
    parser.add_argument("--part", nargs="+", help="run one part only: its method and arguments")
    parser.add_argument("--claims", action="store_true", help="run nothing, score what is there")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(OWN_CLAIMS),
        help="run and score these claims only; all others stay as docs/evidence.json has them",
    )
    parser.add_argument("--write", action="store_true", help="store docs/evidence.json, tables and picture")
    options = parser.parse_args()
    evidence = Evidence(options.folder)
    if options.part:
        method, *arguments = options.part
        part = OTHER_PARTS.get(method) or getattr(Evidence, method)
        part(evidence, *(int(a) if a.isdigit() else a for a in arguments))
        return
    start = time.monotonic()
    if not options.claims:
        for parts in phases(evidence, only=options.only):
            run(evidence, parts)
    if options.only:
        found = _replaced(evidence, options.only)
    else:
        from tests.benchmarks.evidence_claims import Claims

        found = Claims(evidence).all()
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if not options.claims:
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")
        evidence_page.write(found)


if __name__ == "__main__":
    main()
