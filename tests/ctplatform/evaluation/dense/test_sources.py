"""Labelled scans of a cohort and the names of their files."""

import shutil

import pandas as pd
import pytest

from ctplatform.dataset.ledger import read_ledger
from ctplatform.errors import StageError
from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.dense.sources import labelled_scans
from ctplatform.pipeline.state import WorkspaceState, labels_digest
from ctplatform.storage.layout import LABELLED
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import RUN
from tests.ctplatform.labelled_world import build_labelled, labelled_recipe


def test_classes_of_other_maps_are_named_in_the_recipe(swept):
    workspace, cohort, _ = swept
    wrong = labelled_recipe(classes={"nodules": {"nodul": 1}})
    with pytest.raises(StageError, match="names nodul"):
        assemble(workspace, cohort, wrong, run=RUN)


def test_the_chain_sees_other_label_maps_and_not_other_places(tmp_path):
    cohort = pd.DataFrame({"scan_id": ["a", "b"], "subject_id": ["a", "b"], "path": "", "subtype_map": ""})

    def digest(folder):
        maps = [str(folder / "a.nii.gz"), None]
        return labels_digest(
            WorkspaceState(Workspace(tmp_path), cohort.assign(subtype_map=maps), labelled_recipe())
        )

    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "a.nii.gz").write_bytes(b"a map")
    shutil.copytree(here, there)
    first = digest(here)
    assert digest(there) == first
    (there / "a.nii.gz").write_bytes(b"another map")
    assert digest(there) != first


def test_names_of_files_change_with_what_they_depend_on(tmp_path):
    config = labelled_recipe(initialisations=["density"])
    workspace, cohort = build_labelled(tmp_path, config, subjects=4)
    tasks, ledger = [get_task("emphysema_subtypes"), get_task("nodules")], read_ledger(workspace)

    def sources(recipe=config, ledger=ledger):
        return labelled_scans([(task, task.maps(cohort)) for task in tasks], recipe, ledger)

    first = sources()
    assert first == sources()
    scan_id = next(iter(first))
    source = first[scan_id]
    assert [m.task for m in source.maps] == ["emphysema_subtypes", "nodules"]
    assert [m.regions for m in source.maps] == [True, False]
    paths = [source.volume_path, *(source.labels_path(m) for m in source.maps)]
    paths += [source.tiles_path(source.maps[0], stride) for stride in (8, 16)]
    paths += [source.features_path("density", m) for m in source.maps]
    assert len(set(paths)) == len(paths)
    assert all(path[0] == LABELLED for path in paths)
    # Another image changes all names, other values of a task's classes those of its maps alone.
    moved = sources(ledger=ledger.assign(content_hash="other"))[scan_id]
    assert moved.key != source.key
    assert all(a.key != b.key for a, b in zip(moved.maps, source.maps, strict=True))
    valued = sources(labelled_recipe(initialisations=["density"], classes={"nodules": {"nodule": 7}}))[
        scan_id
    ]
    assert valued.key == source.key
    assert valued.maps[0].key == source.maps[0].key
    assert valued.maps[1].key != source.maps[1].key
    assert valued.maps[1].classes == {"nodule": 7}
