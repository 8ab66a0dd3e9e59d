"""Which model of a task is the best; the sweeps of test_kept_heads, test_kept_networks and test_kept_maps keep them."""

from ctplatform.evaluation.kept_models import best_of


def test_the_best_has_the_best_score_by_its_direction():
    scores = {"a": {"value": 0.2}, "b": {"value": None}, "c": {"value": 0.9}}
    assert best_of(scores, higher_is_better=True) == "c"
    assert best_of(scores, higher_is_better=False) == "a"
    assert best_of({"x": {"value": None}, "y": {"value": None}}, higher_is_better=True) == "x"
    assert best_of({}, higher_is_better=True) == ""
