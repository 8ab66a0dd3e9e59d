"""Problems with one label a subject: digests and predictions."""

from dataclasses import replace

import numpy as np
import pytest

from ctplatform.config.evaluation import FinetuneConfig, ScratchConfig
from ctplatform.config.training import EncoderConfig
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.models import Encoders, Training
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.metrics.scores import Targets
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks.registry import get_task


def problem(task="emphysema_extent"):
    rng = np.random.default_rng(0)
    x_train, x_test = (np.c_[rng.random(20), rng.normal(size=(20, 3))] for _ in range(2))
    train, test = Targets(x_train[:, 0]), Targets(x_test[:, 0])
    if task == "survival":
        train, test = (Targets(1000 * t.value_N + 1, rng.random(20) < 0.7) for t in (train, test))
    subjects = [tuple(f"{part}{i:02d}" for i in range(20)) for part in ("train", "test")]
    scans = {subject: (f"{subject}-1", f"{subject}-2") for subject in (*subjects[0], *subjects[1])}
    features = {"density": (x_train, x_test), "random": (x_train[:, 1:], x_test[:, 1:])}
    return SubjectProblem(get_task(task), subjects[0], train, subjects[1], test, features, scans)


@pytest.fixture
def training(tmp_path):
    encoders = Encoders(Workspace(tmp_path), "run", EncoderConfig(), (-1024, 240))
    return Training(encoders, ScratchConfig(), FinetuneConfig())


def test_the_table_has_a_row_a_test_subject(training):
    found = problem().predict(Cell("emphysema_extent", "density", 1.0, 3), np.arange(20), training)
    table = found.table
    assert table["subject_id"].tolist() == list(problem().test_subjects)
    assert table["scan_id"].tolist() == [f"{s}-1" for s in problem().test_subjects]
    assert table["seed"].eq(3).all()
    assert table["target"].tolist() == problem().test.value_N.tolist()
    assert table["prediction"].to_numpy() == pytest.approx(problem().test.value_N, abs=0.05)
    assert table[["time", "event"]].isna().all(axis=None)
    assert found.details == {"penalty": 0.01}
    assert found.slices == ()


def test_survival_has_times_and_events(training):
    table = problem("survival").predict(Cell("survival", "density", 1.0, 0), np.arange(20), training).table
    assert table["time"].tolist() == problem("survival").test.value_N.tolist()
    assert table["event"].tolist() == problem("survival").test.event_N.astype(float).tolist()


def test_only_the_chosen_rows_are_fitted(training):
    cell, rows = Cell("emphysema_extent", "density", 0.5, 0), np.arange(10)
    whole = problem()
    other = replace(whole, train=Targets(np.r_[whole.train.value_N[:10], whole.train.value_N[:9:-1]]))
    a, b = (p.predict(cell, rows, training).table["prediction"].tolist() for p in (whole, other))
    assert a == b
    c = other.predict(cell, np.arange(20), training).table["prediction"].tolist()
    assert c != a


def test_predictions_stay_in_the_valid_range(training):
    whole = problem()
    x_train, x_test = whole.features["density"]
    far = replace(whole, features={"density": (x_train, 10 * x_test)})
    found = far.predict(Cell("emphysema_extent", "density", 1.0, 0), np.arange(20), training).table[
        "prediction"
    ]
    assert found.between(0, 1).all()
    assert (found == 1).any()


def test_the_digest_changes_with_labels_subjects_and_the_initialisations_own_features():
    whole = problem()
    first = whole.digest("density")
    labels = whole.test.value_N.copy()
    labels[0] += 0.1
    assert replace(whole, test=Targets(labels)).digest("density") != first
    assert replace(whole, train_subjects=whole.train_subjects[::-1]).digest("density") != first
    other = whole.features["random"][0] + 1, whole.features["random"][1]
    changed = replace(whole, features={**whole.features, "random": other})
    assert changed.digest("density") == first
    assert changed.digest("random") != whole.digest("random")
    assert replace(whole, scans={}).digest("density") == first
