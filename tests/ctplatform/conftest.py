"""Fixtures of the platform: a small CT series, the shared cohort with a place for runs, a trained run of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import drasclr
from ctplatform.imaging.dicom_writer import write_dicom_series
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
def model(trained):
    """The encoder of that run, with its atlas, from a copy of its folder alone."""
    workspace, run, _ = trained
    return drasclr.load(workspace.path("pretrain", run))
