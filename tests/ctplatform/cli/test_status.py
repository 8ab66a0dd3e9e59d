"""The state of a workspace: a line a stage, a line a scan that needs a look, the last failure."""

from __future__ import annotations

import json

import pytest

from ctplatform.cli.status import WIDTH, show_status, stage_line, status_json
from ctplatform.dataset.ledger import write_row
from ctplatform.errors import StageError
from ctplatform.pipeline.records import Record, write_record
from ctplatform.storage.layout import POSTMORTEM, POSTMORTEM_SUMMARY
from ctplatform.storage.workspace import Workspace


def test_a_stage_is_one_line():
    running = Record("prepare", "running", {}, {}, started="2026-01-01T00:00:00Z", done=3, total=8)
    assert stage_line(running) == "[prepare] running 3/8 since 2026-01-01T00:00:00Z"
    ended = Record("embed", "finished", {}, {}, ended="2026-01-02", text="8 scans", run="r", done=8, total=8)
    assert stage_line(ended) == "[embed] (r) finished 2026-01-02: 8 scans"
    long = stage_line(Record("embed", "failed", {}, {}, text="x" * 500))
    assert len(long) == WIDTH
    assert long.endswith("...")


def test_nothing_yet_says_what_to_run(tmp_path):
    with pytest.raises(StageError, match="drasclr prepare"):
        show_status(Workspace(tmp_path))


def test_stages_scans_and_failures(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    write_record(workspace, Record("prepare", "finished", {}, {}, ended="2026-01-03", text="done"))
    write_record(workspace, Record("atlas", "finished", {}, {}, ended="2026-01-01", text="made"))
    write_row(workspace, {"scan_id": "a", "subject_id": "p", "state": "accepted"})
    row = {"scan_id": "b", "subject_id": "q", "state": "failed", "reason": "the file ends early"}
    write_row(workspace, row | {"remedy": "Copy it again"})
    failure = {"stage": "prepare", "problem": "no space", "when": "2026-01-02"}
    workspace.write_json(failure, POSTMORTEM, "one", POSTMORTEM_SUMMARY)
    found = json.loads(json.dumps(status_json(workspace)))
    assert [stage["stage"] for stage in found["stages"]] == ["atlas", "prepare"]
    assert found["scans"]["counts"] == {"accepted": 1, "failed": 1}
    (bad,) = found["scans"]["not_accepted"]
    assert (bad["scan_id"], bad["remedy"]) == ("b", "Copy it again")
    assert (found["failures"], found["last_failure"]["finished_since"]) == (1, True)
    show_status(workspace)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0] for line in lines[:2]] == ["[atlas", "[prepare"], "in the order of the chain"
    assert "1 accepted" in lines[2]
    assert "1 failed" in lines[2]
    assert lines[3] == "  b  failed: the file ends early. Copy it again."
    assert "prepare at 2026-01-02; it has finished since: no space" in lines[5]


def test_a_failure_that_is_not_solved_is_not_said_to_be(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    write_record(workspace, Record("prepare", "failed", {}, {}, ended="2026-01-03"))
    failure = {"stage": "prepare", "problem": "no space", "when": "2026-01-02"}
    workspace.write_json(failure, POSTMORTEM, "one", POSTMORTEM_SUMMARY)
    show_status(workspace)
    assert "finished since" not in capsys.readouterr().out
