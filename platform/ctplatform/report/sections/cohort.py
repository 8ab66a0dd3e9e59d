"""Cohort flow: found, accepted, flagged, rejected, failed, and why; then the split into training and held-out."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from ctplatform.dataset.ledger import STATES, worst_first
from ctplatform.metrics.bootstrap import wilson
from ctplatform.report import words
from ctplatform.report.commands import command
from ctplatform.report.document import Box, Figure, Omitted, Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "Cohort flow"
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*\w)")  # neither the 2 of cm2 nor part of a code
LISTED = 200  # most scans in the table of reasons


def section(inputs: Inputs) -> Section | Omitted:
    """The flow chart and every scan that did not pass."""
    ledger = inputs.ledger
    if ledger.empty:
        return Omitted(TITLE, "no scan has been prepared yet")
    counts = {state: int((ledger["state"] == state).sum()) for state in STATES}
    total, subjects = len(ledger), ledger["subject_id"].nunique()
    used = inputs.usable
    out = ["failed", "rejected"] + ([] if inputs.recipe.prepare.quality.use_flagged else ["flagged"])
    flow = [
        Box(
            "Scans found",
            total,
            (words.count(subjects, "subject"),),
            excluded=[_excluded(ledger, state) for state in out if counts[state]],
        ),
        Box(
            "Scans used",
            len(used),
            (words.count(used["subject_id"].nunique(), "subject"), *_used(counts, inputs)),
            excluded=[_excluded(ledger, "flagged")] if counts["flagged"] and "flagged" not in out else [],
            state="accepted",
        ),
        *_split(inputs),
    ]
    states = Table(
        "Scans by state",
        ("State", "Scans", "Share", "95% interval", "Subjects"),
        [
            (
                state,
                f"{counts[state]:,}",
                words.percent(counts[state] / total),
                "{} to {}".format(*map(words.percent, wilson(counts[state], total))),
                f"{ledger.loc[ledger['state'] == state, 'subject_id'].nunique():,}",
            )
            for state in STATES
        ],
        numeric=frozenset({1, 2, 3, 4}),
    )
    figure = Figure(
        name="cohort-flow",
        title=f"From {words.count(total, 'scan')} found to {len(used):,} used",
        caption=(
            "Failed: could not be read or processed. Rejected: measured, but outside the limits that the method needs. "
            "Flagged: usable, but to be checked. A scan may have several reasons."
        ),
        n=f"n = {words.count(total, 'scan')} of {words.count(subjects, 'subject')}",
        interval="shares with 95% Wilson intervals in the table",
        command=command("prepare", inputs.recipe),
        flow=flow,
        tables=[states, *_reasons(ledger)],
    )
    return Section("cohort", TITLE, figures=[figure], notices=_leaks(inputs))


def _used(counts: dict[str, int], inputs: Inputs) -> list[str]:
    if not counts["flagged"]:
        return []
    if inputs.recipe.prepare.quality.use_flagged:
        return [f"{counts['accepted']:,} accepted, {counts['flagged']:,} flagged"]
    return [f"{counts['accepted']:,} accepted; flagged scans are left out"]


def _excluded(ledger: pd.DataFrame, state: str) -> Box:
    rows = ledger[ledger["state"] == state]
    kinds = reason_counts(rows["reason"])
    lines = [f"{n:,} × {kind}" for kind, n in kinds[:6]]
    if len(kinds) > 6:
        lines.append(f"and {words.count(len(kinds) - 6, 'further reason')} (table below)")
    return Box(words.sentence(state), len(rows), lines, state=state)


def reason_counts(reasons: Iterable[object]) -> list[tuple[str, int]]:
    """Counted reasons, most frequent first; those that differ only in numbers are merged, with the range of each."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        parts = [part.strip() for part in words.without_paths(reason).split(";") if part.strip()]
        for part in parts or ["no reason given"]:
            kinds.setdefault(_NUMBER.sub("#", part), []).append(part)
    merged = [(_merged(texts), len(texts)) for texts in kinds.values()]
    return sorted(merged, key=lambda item: (-item[1], item[0]))


def _merged(texts: list[str]) -> str:
    spans = []
    for values in zip(*map(_NUMBER.findall, texts)):
        low, high = min(values, key=float), max(values, key=float)
        spans.append(low if low == high else f"{low} to {high}")
    ranges = iter(spans)
    return _NUMBER.sub(lambda _: next(ranges), texts[0])


def _split(inputs: Inputs) -> list[Box]:
    if not inputs.splits:
        return []
    boxes = []
    for key, title, what in (
        ("train", "Training", "pretraining and labels"),
        ("test", "Held out", "never seen before evaluation"),
    ):
        subjects = set(map(str, inputs.splits.get(key, [])))
        scans = int(inputs.usable["subject_id"].astype(str).isin(subjects).sum())
        boxes.append(Box(title, scans, (words.count(len(subjects), "subject"), what), state="end"))
    return boxes


def _leaks(inputs: Inputs) -> list[str]:
    """Held-out subjects that share a subject or a scan's content with training."""
    if not inputs.splits:
        return []
    train, test = (set(map(str, inputs.splits.get(key, []))) for key in ("train", "test"))
    notices = []
    if both := train & test:
        notices.append(
            f"{words.count(len(both), 'subject')} on both sides of the split: results are not held-out."
        )
    rows = inputs.usable.dropna(subset=["content_hash"])
    subject = rows["subject_id"].astype(str)
    shared = set(rows.loc[subject.isin(train), "content_hash"]) & set(
        rows.loc[subject.isin(test), "content_hash"]
    )
    if shared:
        notices.append(
            f"{words.count(len(shared), 'scan')} with the same content on both sides of the split: "
            "results are not held-out."
        )
    return notices


def _reasons(ledger: pd.DataFrame) -> list[Table]:
    rows = ledger[ledger["state"] != "accepted"]
    if rows.empty:
        return []
    rows = worst_first(rows)
    cells = [
        (str(row.scan_id), row.state, words.without_paths(row.reason), words.without_paths(row.remedy))
        for row in rows.head(LISTED).itertuples()
    ]
    left = len(rows) - LISTED
    return [
        Table(
            "All failed, rejected and flagged scans",
            ("Scan", "State", "Reason", "What to do"),
            cells,
            note=f"{left:,} more are in the ledger." if left > 0 else "",
        )
    ]
