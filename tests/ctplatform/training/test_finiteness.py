"""NaN and infinity are found wherever they are in a state."""

from __future__ import annotations

import math

import pytest
import torch

from ctplatform.training.finiteness import all_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_is_enough(bad):
    state = {
        "a": torch.zeros(3),
        "b": [{"c": torch.ones(2, 2, dtype=torch.bfloat16)}],
        "n": 3,
        "i": torch.tensor(1),
    }
    assert bool(all_finite(state, torch.zeros(())))
    state["b"][0]["c"][1, 1] = bad
    assert not bool(all_finite(torch.zeros(1), state))


def test_nothing_is_finite():
    assert bool(all_finite({}, {"step": 1}))
