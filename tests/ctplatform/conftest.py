"""Fixtures of the platform: a small CT series, the shared cohort with a place for runs, a trained run of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

import drasclr
from ctplatform.dataset import ledger
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.inference.embedder import Embedder
from ctplatform.storage import layout
from ctplatform.storage.layout import ATLAS
from ctplatform.storage.workspace import Workspace
from tests.conftest import made_once
from tests.ctplatform.scans import chest
from tests.ctplatform.training_world import run_loop


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_dicom_series(chest(), tmp_path / "series")
    return tmp_path / "series"


@pytest.fixture
def workspace(prepared, tmp_path):
    """The shared workspace's data below an own folder for runs."""
    source, _ = prepared
    target = tmp_path / "ws"
    target.mkdir()
    for name in ("atlas", "scans", "patches"):
        (target / name).symlink_to(source.path(name))
    shutil.copy(source.path("splits.json"), target)
    return Workspace(target)


@pytest.fixture
def unprepared(prepared, tmp_path):
    """An own workspace with the shared atlas and nothing else."""
    source, _ = prepared
    shutil.copytree(source.path(ATLAS), tmp_path / "ws" / ATLAS)
    return Workspace(tmp_path / "ws")


@pytest.fixture(scope="session")
def trained(prepared, small_recipe, tmp_path_factory):
    """(workspace, run, cohort): the shared cohort with a trained run. Read only."""
    source, cohort = prepared

    def make(target: Path) -> None:
        for name in ("atlas", "scans", "patches"):
            (target / name).symlink_to(source.path(name))
        shutil.copy(source.path("splits.json"), target)
        run_loop(Workspace(target), small_recipe)

    return Workspace(made_once(tmp_path_factory, "trained", make)), "test", cohort


@pytest.fixture(scope="session")
def embedded(trained, small_recipe, tmp_path_factory):
    """(workspace, run, cohort): the trained run with the vectors of all usable scans. Read only."""
    source, run, cohort = trained

    def make(target: Path) -> None:
        for name in ("atlas", "scans", "patches", "pretrain", "splits.json"):
            (target / name).symlink_to(source.path(name))
        workspace = Workspace(target)
        rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
        scans = rows[["scan_id", "subject_id", "content_hash"]].to_dict("records")
        for number, group in enumerate((scans[:3], scans[3:])):
            item = {"encoder": "drasclr", "group": str(number), "scans": json.dumps(group)}
            Embedder(workspace, small_recipe, run)(item)
        tables = [workspace.read_table(*layout.scan_vectors(run, "drasclr", str(n))) for n in range(2)]
        workspace.write_table(pa.concat_tables(tables), *layout.patient_vectors(run, "drasclr"))

    return Workspace(made_once(tmp_path_factory, "embedded", make)), run, cohort


@pytest.fixture(scope="session")
def model(trained):
    """The encoder of that run, with its atlas, from a copy of its folder alone."""
    workspace, run, _ = trained
    return drasclr.load(workspace.path("pretrain", run))
