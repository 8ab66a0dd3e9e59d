"""One evaluated workspace and its report, for all tests of the report; a headless browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.report.build import ReportPaths, build_report
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.report.elements import Elements
from tests.ctplatform.report.workspace import EVIL, RUN, copied, replaced, write_workspace

BROWSER_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    write_workspace(workspace, run=RUN, subjects=40)
    return workspace


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("demo", ["report.gallery=5", "sweep.seeds=4"])


@pytest.fixture(scope="session")
def report(evaluated, recipe) -> ReportPaths:
    return build_report(evaluated, recipe, run=RUN)


@pytest.fixture(scope="session")
def html(report) -> str:
    return Path(report.html).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html) -> Elements:
    return Elements(html)


@pytest.fixture(scope="session")
def hostile(evaluated, tmp_path_factory) -> str:
    """A report whose every text from the data is an attack or a path."""
    folder = tmp_path_factory.mktemp("hostile")
    workspace = copied(evaluated, folder, "scans", "splits.json", "pretrain", "evaluation")
    name = workspace.files("scans", suffix=".parquet")[4]
    rows = workspace.read_table("scans", name).to_pandas()
    rows["scan_id"], rows["state"] = f"{EVIL}scan", "failed"
    rows["reason"] = f"{EVIL} cannot read /data/Doe^Jane/ct.nii.gz"
    rows["remedy"] = "Look into C:\\scans\\Doe_Jane\\1.dcm"
    replaced(workspace, rows, "scans", name)
    for table in ("summary", "results", "predictions", "comparisons"):
        rows = workspace.read_table("evaluation", RUN, f"{table}.parquet").to_pandas()
        rows["task"] = rows["task"].replace("gold_stage", f"{EVIL}task")
        for column in ("initialisation", "a", "b"):
            if column in rows:
                rows[column] = rows[column].replace("random", f"{EVIL}$\\frac{{$")
        if "subject_id" in rows:
            rows["subject_id"] = rows["subject_id"] + EVIL
        replaced(workspace, rows, "evaluation", RUN, f"{table}.parquet")
    workspace.write_json(
        [f"{EVIL} task skipped: s3://bucket/Doe/labels.csv"], "evaluation", RUN, "notes.json"
    )
    card = {EVIL: EVIL, "trained_on": "/home/doe/cohort.csv"}
    workspace.write_json(card, "pretrain", RUN, "card.json")
    recipe = load_recipe(
        "demo", [f"report.title={json.dumps(EVIL)}", "atlas.source=/home/doe/atlas", "report.gallery=2"]
    )
    return build_report(workspace, recipe, run=RUN).html


@pytest.fixture(scope="session")
def browser():
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no chromium on this machine; `apt-get install chromium` brings it")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=executable, args=list(BROWSER_ARGUMENTS))
        yield opened
        opened.close()
