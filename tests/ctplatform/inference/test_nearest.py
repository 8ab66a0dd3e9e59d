"""A scan's nearest patients: others, similar where vectors are, and itself first where it comes as a file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.inference.nearest import (
    dark_locations,
    embedded_run,
    nearest,
    query_of_file,
    query_of_scan,
    read_at,
)
from ctplatform.storage.layout import patient_vectors
from ctplatform.storage.workspace import Workspace


def test_a_scan_of_the_workspace(embedded):
    workspace, run, _ = embedded
    table = workspace.read_table(*patient_vectors(run, "drasclr")).to_pandas()
    scan, subject = table["scan_id"][0], table["subject_id"][0]
    query = query_of_scan(workspace, run, scan)
    found = nearest(workspace, run, query, count=3)
    others = set(table["subject_id"]) - {subject}
    assert len(found.patients) == min(3, len(others))
    assert {other.subject_id for other in found.patients} <= others
    assert [other.cosine for other in found.patients] == sorted(
        (o.cosine for o in found.patients), reverse=True
    )
    # By hand, of the first location.
    location, listed = next(iter(found.locations.items()))
    vectors, _ = read_at(workspace, run, [location])[location]
    mean = np.mean(list(vectors.values()), axis=0)
    best = max(
        (other for other in vectors if other != scan),
        key=lambda o: np.dot(vectors[o] - mean, vectors[scan] - mean) / np.linalg.norm(vectors[o] - mean),
    )
    assert listed[0].scan_id == best
    assert found.plain()["locations"][0]["centre_mm"] == found.centres_mm[location]


def test_a_file_finds_its_own_scan(embedded):
    workspace, run, cohort = embedded
    row = next(r for r in cohort.to_dict("records") if str(r["path"]).endswith(".nii.gz"))
    found = nearest(workspace, run, query_of_file(workspace, run, row["path"]), locations=[0], count=2)
    assert (found.patients[0].scan_id, found.locations[0][0].scan_id) == (row["scan_id"], row["scan_id"])
    assert found.patients[0].cosine > 0.999
    assert found.locations[0][0].cosine > 0.999
    assert found.patients[1].cosine < 0.999
    assert str(row["path"]) not in str(found.plain())


def test_what_cannot_be_searched_is_said(embedded, tmp_path):
    workspace, run, _ = embedded
    with pytest.raises(StageError, match="has no vector of run"):
        query_of_scan(workspace, run, "nobody")
    query = query_of_scan(
        workspace, run, workspace.read_table(*patient_vectors(run, "drasclr"))["scan_id"][0].as_py()
    )
    with pytest.raises(StageError, match=r"no location 99999.*The atlas has 0 to"):
        nearest(workspace, run, query, locations=[99999])
    assert embedded_run(workspace) == run
    with pytest.raises(StageError, match="no embeddings of run 'other'"):
        embedded_run(workspace, "other")
    with pytest.raises(StageError, match="has no embeddings"):
        embedded_run(Workspace(tmp_path))
    for name in ("a", "b"):
        target = tmp_path / "two" / "embeddings" / name
        target.mkdir(parents=True)
        shutil.copy(workspace.path(*patient_vectors(run, "drasclr")), target)
    with pytest.raises(StageError, match=r"of 2 runs: a, b.*--run"):
        embedded_run(Workspace(tmp_path / "two"))


def test_dark_locations_lie_apart(embedded):
    atlas = read_atlas(embedded[0])
    hu = np.full((atlas.num_locations, 4, 4, 4), -850, np.int16)
    hu[2] = -1000
    hu[1, :2], hu[1, 2:] = -1000, 0  # half of it is chest wall
    picked = dark_locations(hu, atlas, 3)
    assert picked[0] == 2
    assert len(picked) == min(3, len(picked))
    corners = atlas.corners_N3[picked]
    for i, corner in enumerate(corners):
        for other in corners[:i]:
            assert np.abs(corner - other).max() >= atlas.patch_size
    assert dark_locations(hu, atlas, atlas.num_locations).index(2) == 0
