"""A workspace after the whole chain, for all tests of the pipeline."""

from __future__ import annotations

import shutil

import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.graph import STAGES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.pipeline.quick_chain import QUICK, Notes


@pytest.fixture(scope="session")
def recipe():
    return load_recipe("demo", QUICK)


@pytest.fixture(scope="session")
def finished(prepared, recipe, tmp_path_factory):
    """(workspace, cohort) after the whole chain; read only."""
    source, cohort = prepared
    target = tmp_path_factory.mktemp("chain") / "ws"
    shutil.copytree(source.root, target)
    workspace, notes = Workspace(target), Notes()
    run_chain(workspace, cohort, recipe, notes)
    assert notes.ran == list(STAGES), "a workspace without records is looked through, stage by stage"
    return workspace, cohort


@pytest.fixture
def own(finished, tmp_path):
    """A copy that a test may change."""
    source, cohort = finished
    shutil.copytree(source.root, tmp_path / "ws")
    return Workspace(tmp_path / "ws"), cohort
