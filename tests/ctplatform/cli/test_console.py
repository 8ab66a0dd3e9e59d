"""Progress as plain lines, and the result as a table and one sentence."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from ctplatform.cli import console as module
from ctplatform.cli.console import (
    MIN_SUBJECTS,
    Console,
    result_lines,
    show_reasons,
    show_result,
)
from ctplatform.evaluation.summary import headline_rows
from ctplatform.pipeline.progress import Outcome
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace


def summary(**changes) -> pd.DataFrame:
    base = {
        "task": "emphysema_extent",
        "metric": "spearman",
        "fraction": 1.0,
        "chance": 0.0,
        "n_train": 30,
        "n_test": 20,
    }
    rows = [
        base | {"initialisation": "drasclr", "value": 0.6, "low": 0.3, "high": 0.8} | changes,
        base | {"initialisation": "density", "value": 0.7, "low": 0.4, "high": 0.9},
        base | {"initialisation": "random", "value": 0.1, "low": -0.3, "high": 0.5},
        base | {"initialisation": "drasclr", "fraction": 0.1, "value": 0.2, "low": 0.0, "high": 0.4},
        base | {"initialisation": "drasclr", "metric": "mae", "value": 9.0, "low": 8.0, "high": 10.0},
    ]
    return pd.DataFrame(rows)


def test_headlines_are_the_main_metric_with_all_labels():
    rows = headline_rows(summary())
    assert list(rows["initialisation"]) == ["drasclr", "density", "random"]
    assert set(rows["metric"]) == {"spearman"}
    assert set(rows["fraction"]) == {1.0}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "better than chance (0.00)"),
        ({"low": -0.1}, "not shown to be better than chance"),
        ({"n_test": MIN_SUBJECTS - 1}, "too few subjects to say"),
    ],
)
def test_the_sentence_claims_no_more_than_the_interval(changes, verdict):
    first, *better = result_lines(summary(**changes))
    assert verdict in first
    assert "0.60 [" in first
    assert len(better) == 1
    assert "density" in better[0], "what scores higher is said"
    assert "0.70 [0.40, 0.90]" in better[0]


def test_without_the_task_nothing_is_claimed():
    assert result_lines(summary().assign(task="gold_stage")) == []


def test_lines_of_a_log(capsys, monkeypatch):
    shown = Console()
    shown.live = False
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    shown.started("embed", "scans changed")
    shown.announced("embed", ["two workers"])
    shown.progress("embed", 1, 9, "first")
    shown.progress("embed", 2, 9, "too soon")
    shown.progress("embed", 9, 9, "last")
    shown.finished("embed", "9 scans", 3.4)
    shown.skipped("sweep", "nothing changed")
    assert capsys.readouterr().out.splitlines() == [
        "[embed] started: scans changed",
        "[embed] two workers",
        "[embed] 1/9 first",
        "[embed] 9/9 last",
        "[embed] done in 3 s: 9 scans",
        "[sweep] unchanged: nothing changed",
    ]


def test_bars_of_a_terminal_close_when_a_stage_ends(capsys):
    shown = Console()
    shown.live = True
    shown.started("embed")
    shown.progress("embed", 1, 2, "a [bracket]")
    shown.announced("embed", ["[red] is no markup"])
    shown.finished("embed", "2 scans [all]", 1.0)
    shown.skipped("sweep", "as on [monday]")
    assert shown._bar is None
    out = capsys.readouterr().out
    assert "[red] is no markup" in out
    assert "2 scans [all]" in out
    assert "as on [monday]" in out


def test_the_result_names_its_files(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    show_result(Outcome(workspace, run="r"))
    assert workspace.display(*layout.report("r")) in capsys.readouterr().out
    workspace.write_table(pa.Table.from_pandas(summary(), preserve_index=False), *layout.summary("r"))
    show_result(Outcome(workspace, run="r"))
    out = capsys.readouterr().out
    assert "Spearman 0.60" in out
    assert workspace.display(*layout.weights("r")) in out


def test_reasons_are_cut_after_twenty(capsys):
    class Prepared:
        reasons = {f"scan-{i:02d}": "flagged: dim" for i in range(23)}  # noqa: RUF012

    outcome = Outcome(Workspace("/nowhere"), summaries={"prepare": Prepared()})
    show_reasons(outcome)
    lines = capsys.readouterr().out.splitlines()
    assert sum("flagged" in line for line in lines) == 20
    assert "3 more" in lines[-1]
    show_reasons(Outcome(Workspace("/nowhere")))
    assert capsys.readouterr().out == ""
