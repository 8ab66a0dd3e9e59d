"""One rank's batch: anchors and their neighbours as rows of the patches that were read together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ctplatform.dataset import shards
from drasclr import neighbourhood


class Patches:
    """One block's patches of several scans as they were read; nothing is copied before `take`.

    Args:
        scans: int16 HU [R, voxels] of each scan, R in `shards.row_order`; only the voxels need be contiguous.
        side: of a patch, in voxels.
    """

    def __init__(self, scans: Sequence[np.ndarray], side: int) -> None:
        self._scans, self._side = scans, side
        self._held: torch.Tensor | None = None

    def take(self, rows: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows (any shape) of all scans, int16 HU [*rows, S, D, H, W], copied."""
        shape = (*rows.shape, len(self._scans), *(self._side,) * 3)
        if torch.device(device).type == "cpu":
            hu = np.empty((rows.numel(), len(self._scans), self._side**3), shards.DTYPE)
            for row, place in zip(rows.flatten().tolist(), hu, strict=True):
                for scan, values in zip(self._scans, place, strict=True):
                    values[:] = scan[row]
            return torch.from_numpy(hu).view(shape)
        return self.on(device).index_select(0, rows.flatten().to(device)).view(shape)

    def on(self, device: torch.device | str) -> torch.Tensor:
        """All rows on a device other than the CPU, int16 HU [R, S, voxels]; transferred once."""
        if self._held is None:
            self._held = torch.from_numpy(np.stack(self._scans, axis=1)).to(device)
        return self._held


@dataclass(frozen=True)
class Batch:
    """One rank's part of one step, location-major.

    Shapes: anchor_rows_G, neighbour_rows_GK, rows of `patches`; locations_G, neighbour_locations_GK, scans_S,
    subjects_S; all int64. G anchor locations, S scans of this rank, K neighbours. `epoch` is the pass over the data.
    """

    patches: Patches
    anchor_rows_G: torch.Tensor
    neighbour_rows_GK: torch.Tensor
    locations_G: torch.Tensor
    neighbour_locations_GK: torch.Tensor
    scans_S: torch.Tensor
    subjects_S: torch.Tensor
    epoch: int

    def anchors(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The anchors' patches, int16 HU [G, S, D, H, W]."""
        return self.patches.take(self.anchor_rows_G, device)

    def neighbours(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The patches of each anchor's neighbours in the same scan, int16 HU [G, K, S, D, H, W]."""
        return self.patches.take(self.neighbour_rows_GK, device)

    def other_locations(self) -> torch.Tensor:
        """Neighbours that are no anchors of this step, each once, int64 [H]."""
        return neighbourhood.others(self.locations_G, self.neighbour_locations_GK)

    def others(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """The patches at `other_locations`, int16 HU [H, S, D, H, W]."""
        near = self.neighbour_locations_GK.flatten()
        # A location is one row of the block, wherever it is a neighbour.
        rows_N = near.new_zeros(int(near.max()) + 1 if near.numel() else 0)
        rows_N[near] = self.neighbour_rows_GK.flatten()
        return self.patches.take(rows_N[self.other_locations()], device)
