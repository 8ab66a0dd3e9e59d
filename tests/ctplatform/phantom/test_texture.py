"""Texture with a length in mm."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.phantom.grid import Box
from ctplatform.phantom.texture import correlated


@pytest.mark.parametrize("spacing", [0.7, 1.8])
def test_texture_keeps_its_length_in_mm(spacing: float) -> None:
    """Neighbours of a Gaussian-filtered white field correlate by exp(-d^2 / 4 sigma^2), with variance 1."""
    box = Box(np.zeros(3), np.full(3, spacing), np.array([48, 48, 48]))
    field = correlated(box, sigma_mm=1.4, rng=np.random.default_rng(0))
    assert field.std() == pytest.approx(1, rel=0.03)
    neighbours = float(np.mean(field[:, :, 1:] * field[:, :, :-1]))
    assert neighbours == pytest.approx(np.exp(-(spacing**2) / (4 * 1.4**2)), abs=0.05)
