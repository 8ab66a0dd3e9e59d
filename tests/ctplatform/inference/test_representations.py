"""A subject's representation is the mean over its usable scans; subjects are the ledger's."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ctplatform.dataset.ledger import DENSITY
from ctplatform.errors import StageError
from ctplatform.inference.representations import read_representation
from ctplatform.storage.layout import EMBEDDINGS
from ctplatform.storage.workspace import Workspace

SCANS = pd.DataFrame(
    {"scan_id": ["s1", "s2", "s3", "s4"], "subject_id": ["b", "a", "b", "c"]}
    | {name: [1.0, 2.0, 5.0, np.nan] for name in DENSITY}
)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    """Vectors of four scans, one of them not usable, stored with subjects that the ledger no longer has."""
    found = Workspace(tmp_path)
    vectors = [[1.0, 0.0], [2.0, 2.0], [3.0, 4.0], [9.0, 9.0]]
    table = {"scan_id": ["s1", "s2", "s3", "other"], "subject_id": ["z"] * 4, "vector": vectors}
    found.write_table(pa.table(table), EMBEDDINGS, "run", "patients-drasclr.parquet")
    return found


def test_scans_of_a_subject_are_averaged_in_sorted_order(workspace):
    found = read_representation(workspace, "drasclr", run="run", scans=SCANS)
    assert found.subjects == ("a", "b")
    np.testing.assert_array_equal(found.x_NP, [[2.0, 2.0], [2.0, 2.0]])
    np.testing.assert_array_equal(found.of(("b", "a", "b")), found.x_NP[[1, 0, 1]])


def test_density_comes_from_the_ledger_and_unmeasured_scans_are_left_out(workspace):
    found = read_representation(workspace, "density", run="run", scans=SCANS)
    assert found.subjects == ("a", "b")
    np.testing.assert_array_equal(found.x_NP, np.repeat([[2.0], [3.0]], len(DENSITY), axis=1))


def test_a_representation_without_usable_scans_is_refused(workspace):
    with pytest.raises(StageError, match="holds none of the 1 usable scans"):
        read_representation(workspace, "drasclr", run="run", scans=SCANS[SCANS["scan_id"] == "s4"])
    with pytest.raises(StageError, match="patients-random"):
        read_representation(workspace, "random", run="run", scans=SCANS)
