"""Provenance: recipe, versions, hashes and cost, without names of persons or places."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import pandas as pd

from ctplatform import __version__
from ctplatform.config.digest import config_hash
from ctplatform.config.evaluation import SweepConfig
from ctplatform.report import words
from ctplatform.report.commands import command, settings, shown
from ctplatform.report.document import Section, Table
from ctplatform.report.inputs import Inputs

TITLE = "What was run"
PACKAGES = (
    "torch",
    "ray",
    "SimpleITK",
    "numpy",
    "pandas",
    "pyarrow",
    "scikit-learn",
    "lifelines",
    "monai",
    "matplotlib",
)
# Longer values of the card, such as arrays, are left to the file.
LONGEST = 300


def section(inputs: Inputs) -> Section:
    """The provenance of the whole pipeline; never left out."""
    tables = [cost_table(inputs), _identity(inputs)]
    folded = [_recipe(inputs), _versions(inputs)]
    if inputs.card:
        folded.append(_card(inputs.card))
    text = (
        "In the commands, COHORT.csv and WORKSPACE are placeholders for your own files. With the same scans, recipe "
        "and version this command repeats the whole pipeline:"
    )
    return Section(
        "provenance", TITLE, [text], tables=tables, folded=folded, command=command("run", inputs.recipe)
    )


def cost_table(inputs: Inputs) -> Table:
    """Amount of work, wall time and CPU time of each stage."""
    rows: list[tuple[str, str, str, str]] = []
    ledger, metrics, results = inputs.ledger, inputs.metrics, inputs.results
    if not ledger.empty:
        rows.append(
            (
                "Prepare",
                words.count(len(ledger), "scan"),
                words.duration(float(ledger["seconds"].sum(min_count=1))),
                words.duration(float(ledger["cpu_seconds"].sum(min_count=1))),
            )
        )
    if metrics is not None and "seconds" in metrics:
        config = inputs.recipe.pretrain
        wall = elapsed(metrics["seconds"])
        workers = max(1, config.num_workers)
        unit = words.duration(wall * workers * config.cpus_per_worker)
        gpu = f"; GPU {words.duration(wall * workers)}" if config.use_gpu else ""
        rows.append(
            (
                "Pretrain",
                words.count(int(metrics["step"].iloc[-1]), "step"),
                words.duration(wall),
                f"{unit} reserved{gpu}",
            )
        )
    if results is not None and "seconds" in results:
        trials = results.drop_duplicates(["task", "initialisation", "fraction", "seed"])
        wall = float(trials["seconds"].sum())
        rows.append(_trials_row("Sweep", words.count(len(trials), "trial"), wall, inputs.recipe.sweep))
    if inputs.details is not None and (
        tried := inputs.details.query("name == 'configurations'")["value"].sum()
    ):
        seconds = inputs.details.merge(
            inputs.details.query("name == 'configurations'")[["task", "initialisation", "fraction", "seed"]]
        ).query("name == 'seconds'")["value"]
        wall = float(seconds.sum())
        count = words.count(int(tried), "configuration")
        rows.append(_trials_row("Search of hyper-parameters", count, wall, inputs.recipe.sweep))
    return Table(
        "Cost",
        ("Stage", "Amount", "Time, summed over tasks", "CPU time"),
        rows or [("none", words.DASH, words.DASH, words.DASH)],
        numeric=frozenset({1, 2, 3}),
        note="Prepare: CPU time as used. Others: cores reserved, times wall time.",
    )


def elapsed(seconds: pd.Series) -> float:
    """Training time summed over resumptions: the log's clock restarts at zero when a run resumes."""
    values = pd.to_numeric(seconds).to_numpy(float)
    ends = [a for a, b in itertools.pairwise(values) if b < a] + [values[-1]]
    return float(sum(ends))


def _identity(inputs: Inputs) -> Table:
    rows = [("Run", inputs.run), ("Recipe", inputs.recipe.name), ("Recipe hash", config_hash(inputs.recipe))]
    ledger = inputs.ledger
    for column, title in (
        ("atlas_hash", "Atlas hash (ledger)"),
        ("config_hash", "Preparation hash"),
        ("software", "Prepared by version"),
    ):
        values = sorted({str(v) for v in ledger[column].dropna() if v}) if column in ledger else []
        if values:
            rows.append(
                (title, ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else ""))
            )
    if inputs.atlas:
        corners = inputs.atlas.get("corners_N3", inputs.atlas.get("corners"))
        if isinstance(corners, list):
            rows.append(("Atlas locations", f"{len(corners):,}"))
        for key in ("hash", "template_sha256", "patch_size", "step"):
            if key in inputs.atlas:
                rows.append((f"Atlas {key.replace('_', ' ')}", str(inputs.atlas[key])))
    if inputs.splits:
        rows.append(("Split seed", str(inputs.splits.get("seed", words.DASH))))
        rows.append(("Split stratified by", words.without_paths(inputs.splits.get("stratify") or words.DASH)))
    return Table("Identity", ("What", "Value"), rows)


def _recipe(inputs: Inputs) -> Table:
    rows = [(key, words.without_paths(shown(key, value))) for key, value in settings(inputs.recipe)]
    return Table("The resolved recipe, every setting", ("Key", "Value"), rows)


def _versions(inputs: Inputs) -> Table:
    rows = [("Python", platform.python_version()), ("drasclr", __version__)]
    for package in PACKAGES:
        try:
            rows.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return Table("Versions that this page was made with", ("Package", "Version"), rows)


def _card(card: Mapping[str, Any]) -> Table:
    rows = [(key, words.without_paths(value)) for key, value in _flat(card, "") if len(value) <= LONGEST]
    return Table("The card of the weights", ("Key", "Value"), rows)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _trials_row(what: str, count: str, wall: float, config: SweepConfig) -> tuple[str, str, str, str]:
    """A row of the costs, of trials that took `wall` seconds together and reserved what the recipe gives each."""
    gpu = f"; GPU {words.duration(wall * config.gpus_per_trial)}" if config.gpus_per_trial else ""
    return what, count, words.duration(wall), f"{words.duration(wall * config.cpus_per_trial)} reserved{gpu}"
