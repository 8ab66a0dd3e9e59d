"""Tasks from plain values."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.config.tasks import TaskConfig
from ctplatform.metrics.overlap import title_of
from ctplatform.tasks.definition import task_from


def own(**values):
    return task_from("mine", TaskConfig(**{"column": "x", **values}).model_dump())


def table(**columns) -> pd.DataFrame:
    (count,) = {len(values) for values in columns.values()}
    return pd.DataFrame({"subject_id": [f"s{i}" for i in range(count)], **columns})


def test_defaults_are_those_of_the_kind():
    assert own(kind="regression").metrics == ("r2", "spearman", "mae")
    assert own(kind="regression").title == "mine"
    assert own(kind="count", valid=(None, 9)).valid == (0.0, 9.0)
    survival = own(kind="survival", event="dead")
    assert (survival.columns, survival.minimum) == (("x", "dead"), 6)
    assert own(kind="label_map", classes={"cyst": 2}).metrics == ("dice", "hd95")


def test_texts_stand_for_numbers_and_thresholds_for_classes():
    labels = own(kind="ordinal", values={"never": 0, "current": 2}).labels(
        table(x=["never", " current ", None, "pipe"])
    )
    assert labels.subjects == ("s0", "s1")
    assert labels.targets.value_N.tolist() == [0, 2]
    assert any("1 label(s) are no number" in note for note in labels.notes)
    at_least = own(kind="binary", at_least=2).labels(table(x=[0, 1.9, 2, 7]))
    assert at_least.targets.value_N.tolist() == [0, 0, 1, 1]


def test_a_binary_label_is_0_or_1():
    labels = own(kind="binary").labels(table(x=[0, 1, 2, 0.5]))
    assert labels.targets.value_N.tolist() == [0, 1]
    assert "mine: 2 label(s) are neither 0 nor 1 and were left out" in labels.notes


def test_regions_are_scored_by_their_own_classes():
    task = own(kind="label_map", whole_lung=True, classes={"normal": 1, "cyst": 2, "fibrosis": 3})
    assert task.kind == "regions"
    assert task.metrics[:3] == ("dice_mean", "dice_cyst", "dice_fibrosis")
    numbers = np.zeros((2, 3, 5 + 256))
    numbers[:, :, :3] = [[4, 4, 4], [1, 2, 2], [3, 3, 3]]  # a cyst half found, fibrosis wholly
    scores = {metric.name: metric for metric in task.scores}
    rows = np.array([[0, 1]])
    assert scores["dice_cyst"].score(None, numbers, rows) == pytest.approx(0.5)
    assert scores["dice_mean"].score(None, numbers, rows) == pytest.approx(0.75)
    assert title_of("dice_cyst") == "Dice, cyst"
    assert title_of("rmse") is None


def test_the_digest_is_of_what_results_depend_on():
    one = own(kind="ordinal")
    assert one.definition != own(kind="regression").definition
    assert one.definition == own(kind="ordinal", title="Other", unit="mm", metrics=("exact",)).definition
