"""Tasks on label maps: which map of a subject, strata, checks."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task

SUBTYPES, NODULES = get_task("emphysema_subtypes"), get_task("nodules")


def cohort(**columns):
    return pd.DataFrame(
        {"scan_id": ["c", "a", "b", "d"], "subject_id": ["1", "1", "1", "2"], "path": "", **columns}
    )


def test_the_first_scan_with_a_map_stands_for_its_subject():
    found = NODULES.maps(cohort(nodule_map=["c.nii", None, "b.nii", " "]))
    assert found[["scan_id", "subject_id", "label_map"]].values.tolist() == [["b", "1", "b.nii"]]
    named = NODULES.maps(cohort(mine=["c.nii", "a.nii", None, "d.nii"]), {"nodule_map": "mine"})
    assert named["label_map"].tolist() == ["a.nii", "d.nii"]


def test_without_a_column_or_a_map_the_task_is_skipped():
    with pytest.raises(StageError, match="no column 'nodule_map'") as caught:
        NODULES.maps(cohort())
    assert caught.value.code == "no-column"
    with pytest.raises(StageError, match="no usable scan has a label map in 'nodule_map'"):
        NODULES.maps(cohort(nodule_map=[None, "", " ", None]))


def test_regions_are_stratified_by_disease_and_structures_by_presence():
    diseased = np.linspace(0, 1, 20)
    voxels = 1000 * np.c_[1 - diseased, diseased, np.zeros((20, 2))]
    strata = SUBTYPES.strata(Targets(voxels))
    assert strata.tolist() == sorted(strata)
    assert np.bincount(strata).tolist() == [4] * 5
    assert NODULES.strata(Targets(np.array([[0.0], [5.0], [0.0]]))).tolist() == [0, 1, 0]


def test_maps_that_nothing_can_be_fitted_on_are_refused():
    with pytest.raises(StageError, match=r"1 training subject\(s\) with a label map, at least 2"):
        NODULES.check(Targets(np.array([[5.0]])))
    with pytest.raises(StageError, match="no voxel of any class"):
        NODULES.check(Targets(np.zeros((3, 1))))
    with pytest.raises(StageError, match="hold normal only"):
        SUBTYPES.check(Targets(np.array([[5.0, 0, 0, 0]] * 3)))
    SUBTYPES.check(Targets(np.array([[5.0, 1, 0, 0]] * 3)))
    NODULES.check(Targets(np.array([[5.0], [0.0]])))


def test_labels_of_subjects_are_refused():
    with pytest.raises(NotImplementedError, match="task nodules has label maps"):
        NODULES.labels(cohort())
