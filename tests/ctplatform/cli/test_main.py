"""The command: what it prints, what it refuses, and the chain through it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ctplatform.cli.console import result_lines
from ctplatform.cli.main import main
from ctplatform.config.loader import load_recipe
from ctplatform.dataset.ledger import read_ledger
from ctplatform.evaluation.summary import headline_rows
from ctplatform.storage.workspace import Workspace
from tests.conftest import SMALL

SETS = [part for item in SMALL for part in ("--set", item)]


def test_every_command_explains_itself(capsys):
    for command in (
        "demo",
        "run",
        "cohort",
        "atlas",
        "prepare",
        "pretrain",
        "embed",
        "sweep",
        "report",
        "status",
        "estimate",
        "explain",
        "doctor",
        "completion",
    ):
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        assert exit_.value.code == 0
        assert "--" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["run", "--cohort", "nowhere.csv", "--workspace", "x"], "nowhere.csv", 2),
        (["demo", "--recipe", "nope"], "there is no recipe 'nope'", 2),
        (["demo", "--set", "pretrain.epoch=2"], "did you mean 'epochs'?\n", 2),
        (["status", "--workspace", "empty"], "drasclr prepare", 1),
        (["cohort", "nowhere"], "nowhere", 1),
        (["atlas", "adopt", "--workspace", "x"], "Give --atlas PATH", 1),
        (["prepair"], "did you mean prepare?", 2),
        (["demo", "--workspce", "x"], "did you mean --workspace?", 2),
        (["estimate", "--scans", "-5"], "-5 is less than 1", 2),
        (["estimate", "--scans", "5", "--core-price", "nan"], "nan is no amount", 2),
        (["demo", "--from", "report", "--to", "atlas"], "atlas comes before report", 2),
        (["demo", "--json"], "--json is of --dry-run and --status", 2),
        (["submit", "--", "--from", "report", "--to", "atlas"], "atlas comes before report", 2),
        (["submit", "--", "--recipe", "fast"], "recipe 'fast' makes no synthetic cohort", 2),
        (
            ["submit", "--", "--recipe", "demo", "--set", "sweep.tasks=[gold_stge]"],
            "Did you mean 'gold_stage'?",
            2,
        ),
        (["pretrain", "--workspace", "empty"], "needs ledger, which prepare makes", 2),
        (["embed", "--workspace", "empty"], "needs ledger, patches, weights", 2),
        (["report", "--workspace", "empty"], "needs ledger, split, weights, embeddings", 2),
        (["atlas", "--workspace", "empty"], "an atlas is built from a cohort, and none was given", 2),
    ],
)
def test_what_cannot_be_done_is_one_message_and_a_status(
    arguments, message, status, capsys, tmp_path, monkeypatch
):
    """And nothing is left behind: neither a folder nor a session of Ray was made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == status
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_stages_without_their_inputs_are_refused_before_ray_is_imported(tmp_path):
    """In a process of its own, since others of these tests import Ray."""
    code = """
import contextlib, sys
from ctplatform.cli.main import main
for stage in ("pretrain", "embed", "report"):
    with contextlib.suppress(SystemExit):
        main([stage, "--workspace", sys.argv[1]])
        raise AssertionError(f"{stage} ended well")
print([name for name in ("ray", "torch", "matplotlib") if name in sys.modules])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "empty")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr.count("Run `drasclr prepare` first") == 3
    assert not list(tmp_path.iterdir())


def test_a_table_with_a_scan_twice_is_refused_before_anything_starts(tmp_path, capsys):
    table = tmp_path / "cohort.csv"
    table.write_text("scan_id,subject_id,path\na,p,x.nii.gz\na,q,y.nii.gz\n")
    with pytest.raises(SystemExit):
        main(["run", "--cohort", str(table), "--workspace", str(tmp_path / "ws")])
    assert "'a'" in capsys.readouterr().err
    assert not (tmp_path / "ws").exists()


def test_cohort_finds_the_phantoms_scans_with_the_same_ids_again(prepared, tmp_path, capsys):
    workspace, cohort = prepared
    for name in ("one", "two"):
        main(["cohort", workspace.path("phantom", "scans"), "-o", str(tmp_path / f"{name}.csv")])
    first, second = pd.read_csv(tmp_path / "one.csv"), pd.read_csv(tmp_path / "two.csv")
    assert len(first) == len(cohort)
    assert first["scan_id"].is_unique
    assert first["scan_id"].tolist() == second["scan_id"].tolist()
    assert "8 scans" in capsys.readouterr().out


def test_the_chain_on_a_users_table_by_command_and_again(prepared, tmp_path, capsys):
    """`drasclr run` on a csv with relative paths; a bad scan beside; then every stage finds its work done."""
    source, cohort = prepared
    folder = tmp_path / "user"
    shutil.copytree(source.path("phantom", "scans"), folder / "scans")
    table = cohort.assign(path=[f"scans/{Path(path).name}" for path in cohort["path"]])
    bad = {"scan_id": "broken", "subject_id": "nobody", "path": "scans/gone.nii.gz"}
    pd.concat([table, pd.DataFrame([bad])]).to_csv(folder / "cohort.csv", index=False)
    out = str(tmp_path / "out")
    command = ["run", "--cohort", str(folder / "cohort.csv"), "--workspace", out, "--recipe", "demo", *SETS]
    main([*command, "--set", "pretrain.num_workers=1"])
    first = capsys.readouterr().out
    assert "1 failed" in first
    assert "broken  failed" in first
    assert "report.html" in first
    workspace = Workspace(out)
    assert len(read_ledger(workspace)) == len(cohort) + 1
    run = workspace.folders("evaluation")[0]
    assert load_recipe("demo", SMALL).name in run
    summary = workspace.read_table("evaluation", run, "summary.parquet").to_pandas()
    rows = headline_rows(summary)
    assert {"drasclr", "density", "random", "scratch"} <= set(rows["initialisation"])
    assert (summary["low"] <= summary["high"]).all()
    assert len(result_lines(summary)) >= 1
    html = workspace.read_bytes("evaluation", run, "report.html").decode()
    assert str(folder) not in html, "no source path reaches the report"
    assert "broken" in html

    main(["run", *command[1:], "--set", "pretrain.num_workers=1"])
    again = capsys.readouterr().out
    assert "unchanged" in again
    assert f"{len(cohort)} done before" in again
    assert "[pretrain] unchanged" in again
    main(["status", "--workspace", out])
    assert "1 failed" in capsys.readouterr().out


def test_a_cohort_without_labels_still_gets_its_report(prepared, tmp_path, capsys):
    source, cohort = prepared
    out = tmp_path / "out"
    out.mkdir()
    for name in ("atlas", "scans", "patches"):
        shutil.copytree(source.path(name), out / name)
    table = tmp_path / "cohort.csv"
    cohort[["scan_id", "subject_id", "path", "series_uid"]].to_csv(table, index=False)
    main(
        ["run", "--cohort", str(table), "--workspace", str(out), "--recipe", "demo", *SETS]
        + ["--set", "pretrain.num_workers=0", "--set", "pretrain.max_steps=2"]
    )
    text = capsys.readouterr().out
    assert "left out: no task can be evaluated" in text
    assert "report.html" in text
    assert list(out.glob("evaluation/*/report.html"))
