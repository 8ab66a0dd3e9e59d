"""Records come back as written, also those of an older version."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from ctplatform import __version__
from ctplatform.pipeline.records import Record, now, read_record, read_records, sources_digest, write_record
from ctplatform.storage.layout import stage_record
from ctplatform.storage.workspace import Workspace

RECORD = Record(
    "sweep", "finished", {"a.b": 1}, {"scans": "0f"}, run="r", notes=("one", "two"), left_out=True
)


def test_a_record_comes_back_as_written(tmp_path):
    workspace = Workspace(tmp_path)
    write_record(workspace, RECORD)
    assert read_record(workspace, "sweep", "r") == RECORD
    assert read_record(workspace, "sweep") is None, "the record belongs to its training run"
    assert RECORD.software == __version__


def test_all_records_are_found_those_of_the_workspace_first(tmp_path):
    workspace = Workspace(tmp_path)
    for stage, run in (("report", "r"), ("split", ""), ("atlas", ""), ("embed", "q")):
        write_record(workspace, Record(stage, "running", {}, {}, run=run))
    found = [(record.stage, record.run) for record in read_records(workspace)]
    assert found == [("atlas", ""), ("split", ""), ("embed", "q"), ("report", "r")]


@pytest.mark.parametrize(
    ("text", "left_out"), [("left out: no task can be evaluated", True), ("2 trials", False), ("", False)]
)
def test_the_text_of_an_older_record_says_whether_it_was_left_out(tmp_path, text, left_out):
    workspace = Workspace(tmp_path)
    values = asdict(RECORD) | {"text": text}
    del values["left_out"]
    workspace.write_json(values, *stage_record("sweep", "r"))
    assert read_record(workspace, "sweep", "r").left_out is left_out


def test_the_text_of_a_newer_record_is_only_shown(tmp_path):
    workspace = Workspace(tmp_path)
    write_record(workspace, Record("sweep", "finished", {}, {}, text="left out: as a title", left_out=False))
    assert not read_record(workspace, "sweep").left_out


def test_an_ended_record_has_its_state_and_time():
    ended = Record("atlas", "running", {}, {}, started=now()).ended_as("failed", text="why", complete=False)
    assert (ended.state, ended.text, ended.complete) == ("failed", "why", False)
    assert ended.started <= ended.ended <= now()
    assert len(sources_digest()) == 8
