"""Labels read and checked."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task


def table(**columns) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"subject_id": [f"s{i}" for i in range(count)], **columns})


def test_labels_that_cannot_be_used_are_counted():
    task = get_task("gold_stage")
    labels = task.labels(table(gold_stage=["0", "3", "", "-1", "II", None]))
    assert labels.subjects == ("s0", "s1")
    assert labels.targets.value_N.tolist() == [0, 3]
    notes = " ".join(labels.notes)
    assert "1 label(s) are no number" in notes
    assert "1 label(s) outside [0, 4]" in notes
    assert "4 of 6 subjects have no label" in notes


def test_one_label_a_subject():
    scans = table(emphysema_extent=[0.1, np.nan, 0.3, 0.4]).assign(subject_id=["a", "b", "b", "a"])
    labels = get_task("emphysema_extent").labels(scans)
    assert labels.subjects == ("a", "b")
    assert labels.targets.value_N.tolist() == [0.1, 0.3]
    assert any("different labels" in note for note in labels.notes)


def test_columns_can_have_other_names():
    scans = table(days=[10, 20, 30], dead=[True, False, True])
    labels = get_task("survival").labels(scans, {"survival_days": "days", "death": "dead"})
    assert labels.targets.event_N.tolist() == [True, False, True]
    with pytest.raises(StageError, match="no column 'survival_days', 'death'") as caught:
        get_task("survival").labels(scans)
    assert caught.value.code == "no-column"


def test_survival_needs_positive_times_and_known_events():
    scans = table(survival_days=[10, 0, 30, 40], death=[1, 1, 2, 0])
    assert get_task("survival").labels(scans).subjects == ("s0", "s3")


def test_exacerbations_become_any_or_none():
    assert get_task("exacerbations").labels(table(exacerbations=[0, 1, 4])).targets.value_N.tolist() == [
        0,
        1,
        1,
    ]


def test_too_few_labels_are_refused_with_the_number():
    survival = get_task("survival")
    with pytest.raises(StageError, match=r"3 labelled training subject\(s\), at least 6"):
        survival.check(Targets(np.ones(3), np.ones(3, bool)))
    with pytest.raises(StageError, match=r"1 event\(s\)"):
        survival.check(Targets(np.arange(1.0, 9), np.arange(8) == 2))
    with pytest.raises(StageError, match="all 5 training subjects have the label 2"):
        get_task("gold_stage").check(Targets(np.full(5, 2.0)))
