"""A workspace that version 0.1.0 made before its modules were sorted into subpackages is read, and nothing is redone.

`tests/data/workspace-0.1.0.tar.xz` is the whole chain on seven phantom subjects, with its scan table and recipe. Scans,
shards and weights are zeros of their original length, and checkpoints are absent: finished work is recognised without
reading them.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from ctplatform.cli.main import main
from ctplatform.cohort.table import read_cohort
from ctplatform.config.loader import load_recipe
from ctplatform.dataset.ledger import read_ledger
from ctplatform.pipeline.assessment import assess
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.dry_run import plan
from ctplatform.pipeline.graph import STAGES
from ctplatform.pipeline.records import read_records
from ctplatform.pipeline.state import WorkspaceState
from ctplatform.preparation.plan import settings_hash
from ctplatform.storage.layout import STAGE_RECORDS
from ctplatform.storage.workspace import Workspace
from ctplatform.training.runs import run_name
from tests.conftest import ROOT
from tests.ctplatform.pipeline.quick_chain import Notes

ARCHIVE = ROOT / "tests" / "data" / "workspace-0.1.0.tar.xz"
#: The digest of a cohort includes the paths of its scans; this one names the same files wherever the archive lies.
TABLE = "/proc/self/cwd/cohort.csv"
RUN = "tiny-f5b16fa5203f"

pytestmark = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")


@pytest.fixture
def older(tmp_path, monkeypatch):
    """(workspace, cohort, recipe), the archive's folder being the working directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    # The recipe extends `demo` as it was then: today's learns with other settings.
    shutil.copy(ARCHIVE.with_name("demo-0.1.0.yaml"), tmp_path)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("extends: demo\n", "extends: demo-0.1.0.yaml\n"))
    return Workspace(tmp_path / "ws"), read_cohort(TABLE), load_recipe("tiny.yaml")


def content(workspace: Workspace) -> dict[str, str]:
    files = [path for path in Path(workspace.root).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_command_redoes_no_stage(older, ray_local, capsys):
    workspace, *_ = older
    before = content(workspace)
    main(["run", "--cohort", TABLE, "--workspace", "ws", "--recipe", "tiny.yaml"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("]")[0][1:] for line in lines if "] unchanged: " in line] == list(STAGES)
    assert not [line for line in lines if "] started" in line]
    assert content(workspace) == before


def test_every_stage_is_skipped_and_only_the_sources_differ(older):
    state = WorkspaceState(*older)
    for name in STAGES:
        decision = assess(state, name)
        assert decision.action == "skip", decision
        assert "sources were edited since" in decision.why
    assert all(step.work.amount == 0 for step in plan(*older))
    assert {record.stage for record in read_records(older[0])} == set(STAGES)


def test_hashes_and_names_are_the_same(older):
    workspace, _, recipe = older
    rows = read_ledger(workspace)
    (atlas_hash,) = set(rows["atlas_hash"])
    assert set(rows["config_hash"]) == {settings_hash(recipe, atlas_hash)}
    assert run_name(workspace, recipe) == RUN


def test_finished_work_is_recognised_without_its_records(older, ray_local):
    """All stages up to the sweep run, and find nothing to do."""
    workspace, cohort, recipe = older
    workspace.delete(STAGE_RECORDS)
    notes = Notes()
    outcome = run_chain(workspace, cohort, recipe, notes, last="sweep")
    assert notes.ran == list(STAGES[:-1])
    found = outcome.summaries
    assert not found["atlas"]["made"]
    assert (found["prepare"].done, found["prepare"].skipped) == (0, len(cohort))
    assert not found["pretrain"].trained
    assert (found["sweep"].trials, found["sweep"].executed) == (2, 0)
    assert outcome.run == RUN
