"""Counter-based random numbers are random, and depend on key and counter only."""

import numpy as np
import pytest
import torch
from scipy import stats

from drasclr import randomness


def splitmix64(state: int) -> int:
    """The published generator's output for a state, in Python's whole numbers."""
    mask = (1 << 64) - 1
    z = state & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    "state", [0, 1, -1, 1234567, -(1 << 63), (1 << 63) - 1, 0x9E3779B97F4A7C15 - (1 << 64)]
)
def test_mix_is_splitmix64(state):
    assert int(randomness.mix(torch.tensor(state))) % (1 << 64) == splitmix64(state)


def test_uniform_is_uniform_and_below_1():
    u = randomness.uniform(randomness.mix(torch.arange(20_000)))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    ends = randomness.uniform(torch.tensor([0, -1]))
    assert ends[0] == 0
    assert 0.999 < ends[1] < 1


def test_noise_is_standard_normal_and_white():
    noise = randomness.normal(torch.tensor([1, 2, -5]), count=32**3)
    for row in noise:
        assert stats.kstest(row, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise)[np.triu_indices(3, 1)]).max() < 0.02
    assert abs(np.corrcoef(noise[0, 1:], noise[0, :-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[0, : 32**3 // 2], noise[0, 32**3 // 2 :])[0, 1]) < 0.03


def test_numbers_of_a_key_do_not_depend_on_the_others():
    keys = torch.tensor([5, 6, 7])
    assert torch.equal(randomness.normal(keys, count=10)[1], randomness.normal(keys[1:2], count=10)[0])
    odd = randomness.normal(keys, count=9)
    assert odd.shape == (3, 9)
