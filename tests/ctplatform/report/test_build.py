"""The report is complete, reproducible, and names what it leaves out."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.report.build import build_report
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.report.elements import Elements
from tests.ctplatform.report.workspace import RUN, copied

SECTIONS = (
    *("summary", "cohort", "quality", "acquisition", "gallery", "pretraining"),
    *("efficiency", "comparisons", "ablations", "scatter", "maps", "calibration", "survival"),
    *("map", "nearest", "provenance"),
)


def test_every_section_is_there(page):
    assert [a["id"] for a in page.of("section")] == list(SECTIONS)


def test_charts_and_tables_are_files_too(report, page, evaluated):
    files = {path.name: path for path in Path(report.figures).iterdir()}
    assert {path.suffix for path in files.values()} == {".svg", ".csv"}
    table = pd.read_csv(files["efficiency-emphysema-extent.csv"])
    rows = evaluated.read_table("evaluation", RUN, "summary.parquet").to_pandas()
    rows = rows[rows["task"] == "emphysema_extent"]
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in table["Value"].astype(str)]
    np.testing.assert_allclose(sorted(shown), sorted(rows["value"]), atol=0.006)


def test_the_same_workspace_gives_the_same_page(evaluated, recipe, html, tmp_path):
    again = copied(
        evaluated,
        tmp_path,
        "scans",
        "splits.json",
        "atlas",
        "pretrain",
        "evaluation",
        "embeddings",
        "patches",
    )
    other = Path(build_report(again, recipe, run=RUN).html).read_text(encoding="utf-8")

    def without_time(text: str) -> str:
        return re.sub(r"Generated [\d: -]+ UTC", "", text)

    assert without_time(other) == without_time(html)


def test_absent_inputs_are_named_not_invented(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, "scans")
    page = Elements(Path(build_report(workspace, recipe, run="other").html).read_text(encoding="utf-8"))
    assert [a["id"] for a in page.of("section")] == [
        "summary",
        "cohort",
        "quality",
        "acquisition",
        "gallery",
        "provenance",
        "omitted",
    ]
    text = "".join(page.text)
    assert "Nothing has been evaluated yet" in text
    for line in ("no pretraining log", "no evaluation summary", "no predictions", "no paired comparisons"):
        assert line in text


def test_an_empty_workspace_is_an_error_that_says_what_to_do(tmp_path, recipe):
    with pytest.raises(StageError, match="drasclr prepare") as caught:
        build_report(Workspace(tmp_path), recipe, run=RUN)
    assert caught.value.code == "nothing-to-report"
