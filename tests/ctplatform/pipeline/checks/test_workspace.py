"""The workspace: writable, with its inputs, with room; nothing is written to find out."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pandas as pd

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.checks import workspace as checks
from ctplatform.pipeline.checks.workspace import (
    atlas_findings,
    disk_findings,
    input_findings,
    nearest,
    place_findings,
    run_findings,
)
from ctplatform.pipeline.dry_run import plan
from ctplatform.storage.workspace import Workspace


def steps(folder: Path, **options):
    empty = pd.DataFrame(columns=["scan_id", "subject_id", "path"])
    return plan(Workspace(folder), empty, load_recipe("fast"), **options)


def test_a_file_is_no_workspace_and_nothing_is_made(tmp_path):
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        (found,) = place_findings(Workspace(tmp_path / place))
        assert "is a file, no folder" in found.problem
    assert place_findings(Workspace(tmp_path / "a" / "b")) == []
    assert nearest(tmp_path / "a" / "b") == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_permission_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    assert "may not be written" in place_findings(Workspace(tmp_path))[0].problem


def test_inputs_that_no_stage_before_makes_are_found(tmp_path):
    (found,) = input_findings(steps(tmp_path, first="split", last="report"))
    assert (found.where, found.level) == ("split", "error")
    assert "`drasclr prepare`" in found.remedy
    assert input_findings(steps(tmp_path)) == []


def test_space_is_compared_with_the_estimate(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    planned = steps(tmp_path, scans=1000)
    written = sum(step.work.written_bytes for step in planned)
    for free, level in ((written * 2, None), (written / 3, "warning")):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda path, free=free: usage(0, 0, int(free)))
        found = disk_findings(Workspace(tmp_path), planned)
        assert [f.level for f in found] == ([level] if level else [])


def test_runs_and_atlases_that_the_recipe_names_must_be_there(tmp_path):
    recipe = load_recipe("fast", ["sweep.runs={other: other-run}", f"atlas.source={tmp_path / 'none'}"])
    (found,) = run_findings(Workspace(tmp_path), recipe, ("sweep",))
    assert found.where == "sweep.runs.other"
    assert run_findings(Workspace(tmp_path), recipe, ("prepare",)) == []
    (found,) = atlas_findings(recipe, ("atlas",))
    assert "holds no atlas" in found.problem
    assert atlas_findings(recipe, ("prepare",)) == []
    assert not (tmp_path / "none").exists()
