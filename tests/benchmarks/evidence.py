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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.benchmarks import (
    document,
    evidence_efficiency,
    evidence_heads,
    evidence_networks,
    evidence_page,
    evidence_real,
    evidence_tasks,
    evidence_tissue,
    evidence_variants,
)
from tests.benchmarks.cost import CpuTime
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
    RESULT,
    SEEDS,
    TRAINED,
    Evidence,
)
from tests.benchmarks.evidence_schedule import CPU_SECONDS, UNKNOWN_SECONDS, Part, Schedule, forecast, kind_of

#: Parts that are no methods of `Evidence`.
OTHER_PARTS: dict[str, Callable[..., None]] = {
    "task_choose": evidence_tasks.choose,
    "task_kept_choice": evidence_tasks.keep_choice,
    "choose": evidence_heads.choose,
    "probe": evidence_heads.probe,
    "train": evidence_networks.train,
    "task_heads": evidence_tasks.heads,
    "task_networks": evidence_tasks.networks,
    "tissue": evidence_tissue.score,
    "real_prepare": evidence_real.prepare,
    "real_pretrain": evidence_real.pretrain,
}


def variant_phases(evidence: Evidence, variants: Sequence[str]) -> list[list[Part]]:
    """Pretraining of variants of the method, and heads on their features of the fresh cohorts."""
    runs = [(variant, seed) for variant in variants for seed in SEEDS]
    cells = [(cohort, *run) for run in runs for cohort in FRESH]
    return [
        [(evidence.pretrained(*run), ["pretrain", *map(str, run)]) for run in runs],
        [(evidence.features_file(*cell), ["features", *map(str, cell)]) for cell in cells],
        [(evidence.probed_file(*cell), ["probe", *map(str, cell)]) for cell in cells],
    ]


#: Claims of modules of their own: their phases, and what makes the claim of the results.
OWN_CLAIMS: dict[str, tuple[Callable[[Evidence], list[list[Part]]], Callable[[Evidence], dict[str, Any]]]] = {
    evidence_tasks.NAME: (evidence_tasks.phases, evidence_tasks.claim),
    evidence_tissue.NAME: (evidence_tissue.phases, evidence_tissue.claim),
}
#: Claims that are made with `--only` alone.
ASIDE_CLAIMS = {
    evidence_variants.ASIDE: (
        lambda evidence: [
            _prepared_cohorts(evidence),
            *variant_phases(evidence, evidence_variants.COMPARED[evidence_variants.ASIDE]),
        ],
        evidence_variants.claim_aside,
    )
}


def _prepared_cohorts(evidence: Evidence) -> list[Part]:
    return [(evidence.prepared(cohort), ["prepare", cohort]) for cohort in FRESH]


def phases(evidence: Evidence, *, only: list[str] | None = None) -> list[list[Part]]:
    """All parts, in phases: parts of one phase need none of it, nor of later ones.

    With `only`, encoders are pretrained and the representation chosen as ever, and then the parts of these claims run.
    """

    def pretrained(variant: str) -> list[Part]:
        return [(evidence.pretrained(variant, seed), ["pretrain", variant, str(seed)]) for seed in SEEDS]

    def encoded(cohorts: tuple[str, ...], encoder: str) -> list[Part]:
        return [
            (evidence.features_file(cohort, encoder, seed), ["features", cohort, encoder, str(seed)])
            for cohort in cohorts
            for seed in SEEDS
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
                evidence_networks.trained_file(evidence, cohort, task, start, labels, number),
                ["train", cohort, task, start, str(labels), str(number)],
            )
            for number in numbers
            for task in TRAINED
            for cohort in FRESH
        ]

    if only is None:
        # No claim compares with networks that are trained on the tasks of `evidence_tasks`, whose choice is kept, nor
        # with encoders of real CTs.
        own = [
            [part for part in phase if part[1][0] != "task_networks" and not evidence_real.is_part(part[1])]
            for phase in (*evidence_tasks.phases(evidence, choose=False), *evidence_tissue.phases(evidence))
        ]
    else:
        own = [phase for name in only for phase in (OWN_CLAIMS | ASIDE_CLAIMS)[name][0](evidence)]
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
        *choice,
        *own,
        _prepared_cohorts(evidence),
        encoded(fresh, MAIN) + encoded(fresh, RANDOM),
        probed(MAIN) + probed(RANDOM) + probed(BEST_RANDOM) + probed(DENSITY, (0,)) + probed(HISTOGRAM, (0,)),
        trained("scratch", FEW, SEEDS) + trained("finetune", FEW, SEEDS),
        trained("scratch", ALL, SEEDS[:1]),
        *variant_phases(evidence, evidence_variants.CLAIMED),
        [(evidence_efficiency.split_file(evidence), ["demo_sized"])],
        [
            (evidence_efficiency.result_file(evidence, case, seed), ["efficiency", case, str(seed)])
            for seed in SEEDS
            for case in evidence_efficiency.CASES
        ],
    ]


def run(evidence: Evidence, phases: list[list[Part]]) -> None:
    """Run the parts that are missing, in processes of their own, `PROCESSES` at a time.

    Raises SystemExit where one fails; those that do not need it are run.
    """
    done = {result for phase in phases for result, _ in phase if result.exists()}
    schedule = Schedule(evidence, phases, done=done)
    running: dict[subprocess.Popen[bytes], list[Part]] = {}
    failed = False
    while True:
        while len(running) < PROCESSES and (taken := schedule.take(PROCESSES)):
            command = [sys.executable, "-m", "tests.benchmarks.evidence", "--folder", str(evidence.folder)]
            for _, arguments in taken:
                command += ["--part", *arguments]
            running[subprocess.Popen(command, env=_environment())] = taken
        if not running:
            break
        for process in [process for process in running if process.poll() is not None]:
            schedule.done |= {result for result, _ in running.pop(process) if result.exists()}
            failed |= process.returncode != 0
        time.sleep(0.2)
    if failed or schedule.waiting:
        raise SystemExit("some parts failed; the same call tries them again")


def run_parts(evidence: Evidence, parts: Sequence[Sequence[str]]) -> None:
    """Run parts in this process; what each cost goes into `costs.jsonl`, one line a part."""
    for number, (method, *arguments) in enumerate(parts):
        part = OTHER_PARTS.get(method) or getattr(Evidence, method)
        start, before = time.monotonic(), 0.0 if number else time.process_time()
        with CpuTime() as cpu:
            part(evidence, *(int(a) if a.isdigit() else a for a in arguments))
        cost = {
            "part": [method, *arguments],
            "cpu_seconds": round(before + cpu.seconds, 1),
            "seconds": round(time.monotonic() - start, 1),
        }
        with (evidence.folder / "costs.jsonl").open("a", encoding="utf-8") as costs:
            costs.write(json.dumps(cost) + "\n")
        print(f"{method} {' '.join(arguments)}: {cost['cpu_seconds']:.0f} CPU-seconds", flush=True)


def _replaced(evidence: Evidence, names: list[str]) -> dict[str, Any]:
    """docs/evidence.json with these claims made anew; one whose parts are missing stays as it is."""
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    claims = {claim["name"]: claim for claim in found["claims"]}
    for name in names:
        try:
            claims[name] = (OWN_CLAIMS | ASIDE_CLAIMS)[name][1](evidence)
        except FileNotFoundError:
            continue
    return found | {"claims": list(claims.values())}


def with_results_aside(found: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """With what only `--only` makes, as it was stored, where it was not made anew: a claim, and networks' scores.

    The networks are trained on labels from random weights, so that nothing of this run changes them.
    """
    claims = {claim["name"]: claim for claim in found["claims"]}
    for claim in stored["claims"]:
        if claim["name"] in ASIDE_CLAIMS:
            claims.setdefault(claim["name"], claim)
        elif claim["name"] == evidence_tasks.NAME and claim["name"] in claims:
            networks = (evidence_tasks.SCRATCH, evidence_tasks.CEILING)
            kept = {name: scores for name, scores in claim["scores"].items() if name in networks}
            claims[claim["name"]]["scores"] = kept | claims[claim["name"]]["scores"]
    return found | {"claims": list(claims.values())}


def forecast_table(evidence: Evidence, phases: list[list[Part]]) -> str:
    """What the parts that are missing are expected to cost, by kind, and how long they take together."""
    done = {result for phase in phases for result, _ in phase if result.exists()}
    schedule = Schedule(evidence, phases, done=done)
    counts = Counter(kind_of(arguments) for arguments in schedule.waiting.values())
    rows = [
        [kind, str(count), f"{(each := CPU_SECONDS.get(kind, UNKNOWN_SECONDS)):g}", f"{count * each:.0f}"]
        for kind, count in counts.items()
    ]
    total = schedule.seconds
    rows.append(["all", str(sum(counts.values())), "", f"{total:.0f}"])
    minutes = forecast(schedule, processes=PROCESSES) / 60
    table = document.table(["part", "how many", "CPU-seconds each", "together"], rows)
    return f"{table}\n\n{minutes:.0f} minutes with {PROCESSES} processes, where a CPU-second takes a second"


def _environment() -> dict[str, str]:
    from ctplatform.training.pretrain import MALLOC

    # Large pages save some 4% of a training step's CPU time (Linux, where programs have to request them).
    return {**os.environ, **MALLOC, "OMP_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main() -> None:
    """Run what is missing, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="runs/evidence", help="(default: %(default)s)")
    parser.add_argument(
        "--part",
        nargs="+",
        action="append",
        help="run this part only: its method and arguments; given several times, these parts one after the other",
    )
    parser.add_argument(
        "--forecast",
        action="store_true",
        help="run nothing, print what the missing parts are expected to cost",
    )
    parser.add_argument("--claims", action="store_true", help="run nothing, score what is there")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*OWN_CLAIMS, *ASIDE_CLAIMS],
        help="run and score these claims only; all others stay as docs/evidence.json has them",
    )
    parser.add_argument("--write", action="store_true", help="store docs/evidence.json, tables and picture")
    options = parser.parse_args()
    evidence = Evidence(options.folder)
    if options.part:
        run_parts(evidence, options.part)
        return
    if options.forecast:
        print(forecast_table(evidence, phases(evidence, only=options.only)))
        return
    start = time.monotonic()
    if not options.claims:
        run(evidence, phases(evidence, only=options.only))
    if options.only:
        found = _replaced(evidence, options.only)
    else:
        from tests.benchmarks.evidence_claims import Claims

        found = with_results_aside(Claims(evidence).all(), json.loads(RESULT.read_text(encoding="utf-8")))
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if not options.claims:
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    if options.write:
        RESULT.write_text(text, encoding="utf-8")
        evidence_page.write(found)


if __name__ == "__main__":
    main()
