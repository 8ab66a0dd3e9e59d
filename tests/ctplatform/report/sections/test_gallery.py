"""The gallery shows the worst scans, does not depend on order, and fits its budget."""

from __future__ import annotations

import numpy as np

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    gallery,
)
from tests.ctplatform.report.workspace import RUN, copied, overlay


def test_the_gallery_shows_the_worst_and_does_not_depend_on_order(evaluated, recipe):
    rows = read_inputs(evaluated, recipe, run=RUN).ledger.dropna(subset=["dice"])
    worst, sample = gallery.choose(rows, 10)
    ranks = rows["state"].map({"rejected": 0, "flagged": 1, "accepted": 2})
    order = sorted(zip(ranks, rows["dice"], rows["scan_id"], strict=True))
    assert list(worst["scan_id"]) == [scan for _, _, scan in order[:5]]
    assert not set(worst["scan_id"]) & set(sample["scan_id"])
    shuffled = gallery.choose(rows.sample(frac=1, random_state=3), 10)
    assert list(shuffled[1]["scan_id"]) == list(sample["scan_id"])
    assert list(shuffled[0]["scan_id"]) == list(worst["scan_id"])


def test_big_overlays_are_shrunk_into_the_budget(monkeypatch):
    rng = np.random.default_rng(0)
    originals = [gallery.load(overlay(str(i), rng, size=(1600, 600))) for i in range(4)]
    monkeypatch.setattr(gallery, "BUDGET", 120_000)
    pictures = gallery.compressed(originals)
    assert sum(len(data) for data, _, _ in pictures) <= 120_000
    assert all(abs(width / height - 1600 / 600) < 0.02 for _, width, height in pictures)


def test_a_torn_overlay_is_named_and_the_others_stay(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, "scans")
    ledger = read_inputs(workspace, recipe, run=RUN).ledger.dropna(subset=["dice"])
    torn = str(gallery.choose(ledger, recipe.report.gallery)[0]["scan_id"].iloc[0])
    png = workspace.read_bytes("scans", "qc", f"{torn}.png")
    workspace.write_bytes(png[: len(png) // 2], "scans", "qc", f"{torn}.png")
    section = gallery.section(read_inputs(workspace, recipe, run=RUN))
    assert [torn in notice for notice in section.notices] == [True]
    shown = [image.name for figure in section.figures for image in figure.images]
    assert len(shown) == recipe.report.gallery - 1
    assert torn not in shown
