"""Labelled scans that several test modules read: a finished sweep, and a phantom scan's own lung volume."""

import pickle
from pathlib import Path

import pytest

from ctplatform.dataset.ledger import read_ledger
from ctplatform.evaluation.dense.labelled_scan import prepare_scan
from ctplatform.evaluation.dense.lung_volume import read_lung_volume
from ctplatform.evaluation.dense.sources import labelled_scans
from ctplatform.evaluation.sweep import sweep
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.registry import get_task
from tests.conftest import made_once
from tests.ctplatform.evaluation_world import RUN
from tests.ctplatform.labelled_world import build_labelled, labelled_recipe


@pytest.fixture(scope="session")
def swept(tmp_path_factory, ray_local):
    """(workspace, cohort, summary) of a sweep of both kinds of task. Read only."""

    def make(target: Path) -> None:
        workspace, cohort = build_labelled(target, labelled_recipe())
        summary = sweep(workspace, cohort, labelled_recipe(), run=RUN)
        (target / "swept.pkl").write_bytes(pickle.dumps((cohort, summary)))

    folder = made_once(tmp_path_factory, "labelled", make)
    return Workspace(folder), *pickle.loads((folder / "swept.pkl").read_bytes())


@pytest.fixture(scope="session")
def real_volume(prepared, small_recipe):
    """A phantom scan's volume, made from its files, with two of its label maps."""
    workspace, cohort = prepared
    ledger = read_ledger(workspace)
    one = cohort[cohort["scan_id"] == ledger["scan_id"].iloc[1]]
    tasks = [get_task(name) for name in ("emphysema_subtypes", "lobes")]
    sources = labelled_scans([(task, task.maps(one)) for task in tasks], small_recipe, ledger)
    (source,) = sources.values()
    facts = prepare_scan(workspace, source, small_recipe.prepare.model_dump_json(), 16)
    return workspace, source, facts, read_lung_volume(workspace, *source.volume_path), one.iloc[0]
