"""Tables of the sweep from trials of known predictions."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.evaluation.cells import Cell, Trial
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.evaluation.summary import tables
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.tasks.registry import get_task

COUNT = 40


def problem():
    rng = np.random.default_rng(0)
    train, test = (Targets(rng.random(COUNT)) for _ in range(2))
    subjects = [tuple(f"{part}{i}" for i in range(COUNT)) for part in ("train", "test")]
    return SubjectProblem(get_task("emphysema_extent"), subjects[0], train, subjects[1], test, {}, {})


def trials(errors, seeds=2):
    """(initialisation, fraction) -> trials whose predictions are the truth with errors of this size."""
    truth = problem().test.value_N
    return [
        Trial(
            Cell("emphysema_extent", name, fraction, seed),
            round(fraction * COUNT),
            COUNT,
            1.5,
            (),
            pd.DataFrame({"prediction": truth + size * np.random.default_rng(seed).normal(size=COUNT)}),
            {"penalty": 0.1},
        )
        for (name, fraction), size in errors.items()
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def found():
    errors = {
        ("scratch", 0.25): 0.5,
        ("scratch", 1.0): 0.2,
        ("drasclr", 0.25): 0.1,
        ("drasclr", 1.0): 0.02,
        ("random", 0.25): 2.0,
        ("random", 1.0): 1.0,
    }
    return tables(trials(errors), {"emphysema_extent": problem()}, bootstrap=300)


def test_results_are_the_metrics_of_each_trial(found):
    rows = found["results"]
    assert len(rows) == 6 * 2 * 3
    (trial,) = [t for t in trials({("drasclr", 1.0): 0.02}) if t.cell.seed == 1]
    row = rows.query("initialisation == 'drasclr' and fraction == 1 and seed == 1 and metric == 'mae'").iloc[
        0
    ]
    assert row["value"] == METRICS["mae"].value(problem().test, trial.outcome)
    assert (row["n_train"], row["n_test"], row["seconds"]) == (40, 40, 1.5)
    assert found["details"]["value"].eq(0.1).all()
    assert len(found["predictions"]) == 12 * COUNT


def test_the_summary_is_the_mean_over_seeds_with_an_interval(found):
    keys = ["initialisation", "fraction", "metric"]
    means = found["results"].groupby(keys)["value"].mean()
    summary = found["summary"].set_index(keys)
    assert summary["value"].to_dict() == pytest.approx(means.to_dict())
    assert (summary["low"] < summary["value"]).all()
    assert (summary["value"] < summary["high"]).all()
    spread = found["results"].groupby(keys)["value"].std(ddof=1)
    assert summary["sd_seeds"].to_dict() == pytest.approx(spread.to_dict())
    assert summary["n_seeds"].eq(2).all()


def test_comparisons_are_paired_differences_from_drasclr(found):
    comparisons = found["comparisons"].set_index(["b", "fraction", "metric"])
    summary = found["summary"].set_index(["initialisation", "fraction", "metric"])["value"]
    assert set(comparisons["a"]) == {"drasclr"}
    assert len(comparisons) == 2 * 2 * 3
    row = comparisons.loc["random", 1.0, "mae"]
    assert row["difference"] == pytest.approx(summary["drasclr", 1.0, "mae"] - summary["random", 1.0, "mae"])
    assert row["high"] < 0  # a lower error
    assert row["p"] < 0.02


def test_savings_count_labels_to_training_from_scratch_with_all(found):
    savings = found["savings"].set_index(["metric", "initialisation"])
    assert savings.loc[("mae", "drasclr"), "labels"] == 10  # reached with the first quarter
    assert savings.loc[("mae", "random"), "labels"] == np.inf
    assert savings.loc[("mae", "random"), "share_reached"] == 0
    assert savings["n_baseline"].eq(40).all()


def test_without_drasclr_or_scratch_there_are_no_savings_and_the_first_is_compared():
    found = tables(
        trials({("density", 1.0): 0.1, ("random", 1.0): 1.0}), {"emphysema_extent": problem()}, bootstrap=100
    )
    assert found["savings"].empty
    assert set(found["comparisons"]["a"]) == {"density"}


def test_one_seed_has_no_spread():
    found = tables(trials({("drasclr", 1.0): 0.1}, seeds=1), {"emphysema_extent": problem()}, bootstrap=100)
    assert found["summary"]["sd_seeds"].isna().all()
    assert found["comparisons"].empty
