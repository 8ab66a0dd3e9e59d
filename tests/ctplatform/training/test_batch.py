"""Rows of patches that are taken on any device are those that were read, and a device receives them once."""

from __future__ import annotations

import numpy as np
import torch

from ctplatform.training.batch import Patches


def test_patches_are_taken_by_row_and_transferred_once():
    scans = [np.arange(40, dtype=np.int16).reshape(5, 8) + 100 * s for s in range(3)]
    patches = Patches(scans, 2)
    rows = torch.tensor([[4, 0], [2, 2]])
    assert torch.equal(patches.take(rows), torch.from_numpy(np.stack(scans, 1)).view(5, 3, 2, 2, 2)[rows])
    sent = patches.take(rows, "meta")
    assert sent.shape == (2, 2, 3, 2, 2, 2)
    assert (sent.dtype, sent.device.type) == (torch.int16, "meta")
    held = patches.on("meta")
    assert held.shape == (5, 3, 8)
    assert patches.on("meta") is held
