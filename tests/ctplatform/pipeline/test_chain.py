"""The chain runs what is missing, changed or cut off, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctplatform.pipeline import assessment
from ctplatform.pipeline.assessment import assess
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.dry_run import plan
from ctplatform.pipeline.graph import GRAPH, STAGES
from ctplatform.pipeline.records import Record, read_record, write_record
from ctplatform.pipeline.state import WorkspaceState
from tests.ctplatform.pipeline.quick_chain import Notes


def test_the_same_again_does_nothing(finished, recipe):
    workspace, cohort = finished
    notes = Notes()
    before = {path: path.stat().st_mtime_ns for path in _files(workspace)}
    outcome = run_chain(workspace, cohort, recipe, notes)
    assert notes.kept == list(STAGES)
    assert not notes.ran
    assert outcome.run, "later commands need the run's name, also when nothing ran"
    assert {path: path.stat().st_mtime_ns for path in _files(workspace)} == before
    steps = plan(workspace, cohort, recipe)
    assert all(s.decision.action == "skip" and s.work.amount == 0 for s in steps)


def _files(workspace):
    return [path for path in Path(workspace.root).rglob("*") if path.is_file()]


def test_a_new_scan_is_prepared_and_only_that_one(own, recipe, capsys):
    workspace, cohort = own
    more = pd.concat(
        [cohort, cohort.iloc[[0]].assign(scan_id="second", subject_id="someone")], ignore_index=True
    )
    steps = {s.decision.stage: s for s in plan(workspace, more, recipe)}
    assert "scans changed" in steps["prepare"].decision.why
    assert steps["prepare"].work.amount == 1
    outcome = run_chain(workspace, more, recipe, Notes(), first="prepare", last="prepare")
    assert outcome.summaries["prepare"].done == 1


def test_what_is_gone_is_made_again(own, recipe):
    workspace, cohort = own
    run = workspace.folders("evaluation")[0]
    workspace.delete("evaluation", run, "report.html")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "report")
    assert (decision.action, decision.why) == ("run", "report of its last run is gone")
    notes = Notes()
    run_chain(workspace, cohort, recipe, notes)
    assert notes.ran == ["report"]
    assert workspace.exists("evaluation", run, "report.html")


def test_a_stage_that_was_cut_off_is_resumed(own, recipe):
    workspace, cohort = own
    record = read_record(workspace, "prepare")
    write_record(workspace, Record(**{**vars(record), "state": "running", "done": 5, "total": 8}))
    decision = assess(WorkspaceState(workspace, cohort, recipe), "prepare")
    assert (decision.action, decision.why) == ("resume", "its last run was cut off after 5 of 8")
    outcome = run_chain(workspace, cohort, recipe, Notes(), last="prepare")
    assert outcome.summaries["prepare"].skipped == len(cohort), "finished scans are not done again"
    assert read_record(workspace, "prepare").state == "finished"


def test_scans_that_failed_in_passing_are_tried_again(own, recipe):
    workspace, cohort = own
    lost = cohort.iloc[[0]].assign(scan_id="late", path=workspace.path("nowhere.nii.gz"))
    table = pd.concat([cohort, lost], ignore_index=True)
    run_chain(workspace, table, recipe, Notes(), first="prepare", last="prepare")
    decision = assess(WorkspaceState(workspace, table, recipe), "prepare")
    assert decision.action == "resume"
    assert not read_record(workspace, "prepare").complete


def test_another_version_of_the_code_makes_it_again_unless_told_to_keep(own, recipe, monkeypatch):
    workspace, cohort = own
    monkeypatch.setattr(assessment, "__version__", "9.9.9")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "prepare")
    assert (decision.action, decision.redo) == ("run", True)
    assert "9.9.9" in decision.why
    assert assess(WorkspaceState(workspace, cohort, recipe), "prepare", older_code="keep").action == "skip"
    outcome = run_chain(workspace, cohort, recipe, Notes(), first="prepare", last="prepare")
    assert outcome.summaries["prepare"].done == len(cohort)


def test_redone_pretraining_keeps_the_older_weights(own, recipe):
    workspace, cohort = own
    run = workspace.folders("pretrain")[0]
    before = workspace.read_bytes("pretrain", run, "weights.safetensors")
    notes = Notes()
    run_chain(workspace, cohort, recipe, notes, first="pretrain", last="pretrain", redo=("pretrain",))
    assert notes.ran == ["pretrain"]
    older = next(name for name in workspace.folders("pretrain") if "-before-" in name)
    assert workspace.read_bytes("pretrain", older, "weights.safetensors") == before
    assert workspace.exists("pretrain", run, "card.json")


def test_an_unexpected_error_is_recorded_without_paths(own, recipe, monkeypatch):
    workspace, cohort = own

    def fail(state, recorder):
        raise ValueError("cannot read /data/DOE JANE/ct.nii.gz")

    monkeypatch.setitem(GRAPH, "report", GRAPH["report"]._replace(run=fail))
    with pytest.raises(ValueError, match="DOE"):
        run_chain(workspace, cohort, recipe, Notes(), first="report", redo=("report",))
    record = read_record(workspace, "report", workspace.folders("evaluation")[0])
    assert (record.state, record.text) == ("failed", "cannot read <path>")


def test_a_stage_that_the_user_stops_is_interrupted_and_no_failure(own, recipe, monkeypatch):
    workspace, cohort = own
    bundles = workspace.folders("postmortem")

    def stop(state, recorder):
        raise KeyboardInterrupt

    monkeypatch.setitem(GRAPH, "report", GRAPH["report"]._replace(run=stop))
    with pytest.raises(KeyboardInterrupt):
        run_chain(workspace, cohort, recipe, Notes(), first="report", redo=("report",))
    run = workspace.folders("evaluation")[0]
    record = read_record(workspace, "report", run)
    assert (record.state, record.text) == ("interrupted", "stopped by the user")
    assert workspace.folders("postmortem") == bundles
    decision = assess(WorkspaceState(workspace, cohort, recipe), "report")
    assert (decision.action, decision.why) == ("resume", "its last run was interrupted")
