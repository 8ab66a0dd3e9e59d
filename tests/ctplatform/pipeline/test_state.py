"""Digests of a cohort depend on what they are digests of, and on nothing else."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError
from ctplatform.pipeline.state import WorkspaceState, labels_digest, scans_digest
from ctplatform.storage.workspace import Workspace


@pytest.fixture
def cohort(tmp_path):
    """Three scans whose files are there, with one label."""
    for number in range(3):
        (tmp_path / f"s{number}.nii.gz").write_bytes(bytes(10 + number))
    return pd.DataFrame(
        {
            "scan_id": ["s0", "s1", "s2"],
            "subject_id": ["p0", "p0", "p1"],
            "path": [str(tmp_path / f"s{number}.nii.gz") for number in range(3)],
            "gold_stage": [0.0, 1.0, 2.0],
        }
    )


def state_of(tmp_path, cohort):
    return WorkspaceState(Workspace(tmp_path / "ws"), cohort, load_recipe("fast"))


def test_order_of_rows_is_in_no_digest(tmp_path, cohort):
    for digest in (scans_digest, labels_digest):
        one, other = (digest(state_of(tmp_path, table)) for table in (cohort, cohort.iloc[::-1]))
        assert one == other != ""


def test_labels_are_not_in_the_scans_digest_nor_paths_in_the_labels(tmp_path, cohort):
    state, relabelled = (
        state_of(tmp_path, table) for table in (cohort, cohort.assign(gold_stage=[0.0, 1.0, 3.0]))
    )
    assert scans_digest(state) == scans_digest(relabelled)
    assert labels_digest(state) != labels_digest(relabelled)
    moved = state_of(tmp_path, cohort.assign(path=["/elsewhere"] * 3))
    assert scans_digest(state) != scans_digest(moved)
    assert labels_digest(state) == labels_digest(moved)


@pytest.mark.parametrize("column", ["scan_id", "subject_id"])
def test_identity_is_in_both_digests(tmp_path, cohort, column):
    renamed = cohort.assign(**{column: ["x0", "x1", "x2"]})
    for digest in (scans_digest, labels_digest):
        assert digest(state_of(tmp_path, cohort)) != digest(state_of(tmp_path, renamed))


def test_a_replaced_file_changes_the_scans_digest(tmp_path, cohort):
    before = scans_digest(state_of(tmp_path, cohort))
    path = cohort["path"][1]
    with open(path, "ab") as file:
        file.write(b"more")
    larger = scans_digest(state_of(tmp_path, cohort))
    os.utime(path, (1, 1))
    assert len({before, larger, scans_digest(state_of(tmp_path, cohort))}) == 3


def test_a_label_map_counts_by_its_content_wherever_it_lies(tmp_path, cohort):
    """A copy with the same size and time is the same map; a changed one is another."""
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(b"mapmap")
        os.utime(tmp_path / name, (5, 5))
    digests = []
    for name in ("a.nii.gz", "b.nii.gz"):
        digests.append(labels_digest(state_of(tmp_path, cohort.assign(lobes=[str(tmp_path / name)] * 3))))
    (tmp_path / "b.nii.gz").write_bytes(b"mapmapmap")
    digests.append(labels_digest(state_of(tmp_path, cohort.assign(lobes=[str(tmp_path / "b.nii.gz")] * 3))))
    assert digests[0] == digests[1] != digests[2]


def test_without_a_cohort_there_are_no_digests(tmp_path, cohort):
    empty = state_of(tmp_path, cohort.iloc[:0])
    assert scans_digest(empty) == labels_digest(empty) == ""


def test_an_empty_workspace_has_no_ledger_no_run_and_no_files(tmp_path, cohort):
    state = state_of(tmp_path, cohort)
    assert state.ledger is None
    assert state.run == ""
    with pytest.raises(StageError):
        state.required_run()
    assert state.file_digest("splits.json") == ""


def test_a_files_digest_is_that_of_its_content(tmp_path, cohort):
    state = state_of(tmp_path, cohort)
    for name, data in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        state.workspace.write_bytes(data, "folder", name)
    a, b, c = (state.file_digest("folder", name) for name in "abc")
    assert a == b != c
    assert len(a) == 12
    assert int(a, 16) >= 0


def test_a_ledger_is_read_once(finished, recipe):
    workspace, cohort = finished
    state = WorkspaceState(workspace, cohort, recipe)
    assert len(state.ledger) == len(cohort)
    assert state.ledger is state.ledger
    assert state.run == state.required_run() != ""


def test_a_changed_table_of_vectors_changes_the_labels_digest(tmp_path, cohort):
    path = tmp_path / "theirs.csv"
    path.write_text("scan_id,f\ns0,1\n")
    recipe = load_recipe("fast", [f"sweep.external.theirs={path}"])

    def digest() -> str:
        return labels_digest(WorkspaceState(Workspace(tmp_path / "ws"), cohort, recipe))

    before = digest()
    assert before == digest() != labels_digest(state_of(tmp_path, cohort))
    path.write_text("scan_id,f\ns0,1\ns1,2\n")
    assert digest() != before
