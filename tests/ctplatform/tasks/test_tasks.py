"""Tasks: labels read and checked, strata, the Cox head."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import ConfigError, StageError
from ctplatform.metrics.overlap import SCORES
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.tasks import NAMES, get_task
from ctplatform.tasks.survival import Cox, partial_likelihood


def table(**columns) -> pd.DataFrame:
    count = len(next(iter(columns.values())))
    return pd.DataFrame({"subject_id": [f"s{i}" for i in range(count)], **columns})


@pytest.mark.parametrize("name", NAMES)
def test_every_task_stands_in_its_own_file(name):
    task = get_task(name)
    assert task.name == name
    assert all(metric in SCORES for metric in task.metrics)


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ConfigError, match="survival"):
        get_task("mortality")


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


def survivors(count, width, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=count)
    x = hidden[:, None] * rng.normal(size=width) + 0.5 * rng.normal(size=(count, width))
    death, censoring = rng.exponential(np.exp(-1.2 * hidden)), rng.exponential(2.0, count)
    return x, Targets(np.minimum(death, censoring), death <= censoring), hidden


@pytest.mark.parametrize("width", [3, 128])
def test_cox_recovers_the_hazard(width):
    train, test = np.arange(80), np.arange(80, 200)
    short_of_truth = []
    for seed in range(3):
        x, targets, hidden = survivors(200, width, seed)
        risk = Cox().fit(x[train], targets.take(train), seed=0).predict(x[test])
        found, most = (METRICS["c_index"].value(targets.take(test), score) for score in (risk, hidden[test]))
        short_of_truth.append(most - found)
    assert np.mean(short_of_truth) < 0.05


def test_cox_fits_on_a_handful():
    x, targets, _ = survivors(7, 64, seed=3)
    assert np.isfinite(Cox().fit(x, targets, seed=0).predict(x)).all()


def test_partial_likelihood_by_hand():
    # Deaths at 1 (all three at risk) and 3 (one at risk); censored at 2.
    targets = Targets(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    score = np.log(np.array([2.0, 1.0, 3.0]))
    assert partial_likelihood(score, targets) == pytest.approx(np.log(2 / 6) + np.log(3 / 3))


def test_partial_likelihood_with_ties_as_breslow():
    targets = Targets(np.array([1.0, 1.0, 2.0]), np.array([True, True, False]))
    assert partial_likelihood(np.zeros(3), targets) == pytest.approx(2 * np.log(1 / 3))


def test_crossing_hazards_are_found_by_the_proportionality_check():
    """A feature that kills early and spares late against one whose effect lasts."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], 400)
    lasting = Targets(rng.exponential(np.exp(-0.7 * x)), np.ones(400, bool))
    early = rng.exponential(np.exp(-1.5 * x))
    crossing = Targets(
        np.where(early < 0.5, early, 0.5 + rng.exponential(np.exp(1.5 * x))), np.ones(400, bool)
    )
    wide = x[:, None] * np.ones(4) + 0.01 * rng.normal(size=(400, 4))
    kept, broken = (Cox().fit(wide, t, seed=0).details() for t in (lasting, crossing))
    assert kept["schoenfeld_p"] > 0.01
    assert broken["schoenfeld_p"] < 1e-6
    assert kept["components"] >= 1
