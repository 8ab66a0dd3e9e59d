"""A workspace after the whole chain, for all tests of the pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.graph import STAGES
from ctplatform.storage.workspace import Workspace
from tests.conftest import made_once
from tests.ctplatform.pipeline.quick_chain import QUICK, Notes


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("demo", QUICK)


@pytest.fixture(scope="session")
def finished(prepared, recipe, tmp_path_factory):
    """(workspace, cohort) after the whole chain; read only."""
    source, cohort = prepared

    def make(target: Path) -> None:
        shutil.copytree(source.root, target, dirs_exist_ok=True)
        notes = Notes()
        run_chain(Workspace(target), cohort, recipe, notes)
        assert notes.ran == list(STAGES), "a workspace without records is looked through, stage by stage"

    return Workspace(made_once(tmp_path_factory, "chain", make)), cohort


@pytest.fixture
def own(finished, tmp_path):
    """A copy that a test may change."""
    source, cohort = finished
    shutil.copytree(source.root, tmp_path / "ws")
    return Workspace(tmp_path / "ws"), cohort
