"""Label subsets of the grid's cells."""

import numpy as np

from ctplatform.evaluation.cells import label_subset
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task


def test_label_subsets_are_nested_and_stratified():
    task = get_task("survival")
    rng = np.random.default_rng(0)
    train = Targets(rng.exponential(size=60), rng.random(60) < 0.4)
    for seed in range(5):
        sets = [set(label_subset(task, train, fraction=f, seed=seed)) for f in (0.2, 0.5, 1.0)]
        assert sets[0] < sets[1] < sets[2]
        assert [len(s) for s in sets] == [12, 30, 60]
        rates = [train.event_N[sorted(s)].mean() for s in sets]
        assert np.ptp(rates) < 0.15
    assert set(label_subset(task, train, fraction=0.3, seed=1)) != set(
        label_subset(task, train, fraction=0.3, seed=2)
    )
