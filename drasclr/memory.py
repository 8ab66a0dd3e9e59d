"""Key memory: for every location the last keys computed there, oldest overwritten first.

Legend: N locations held, K slots a location, D features, G locations and S scans of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOBODY = -1


@dataclass(frozen=True)
class Negatives:
    """Keys of some locations. `filled_GM` is False where a slot has never been written; such keys are zeros."""

    keys_GMD: Tensor
    subjects_GM: Tensor
    filled_GM: Tensor


class KeyMemory:
    """A ring of keys a location, with the subject that each key came from.

    It is no module and has no buffers: DistributedDataParallel would broadcast them at every step, and every
    checkpoint would carry them in the model. A slot that was never written never counts as a negative.

    Args:
        num_locations: locations of the atlas.
        size: slots a location.
        dim: features of a key.
        locations: the locations held here; all by default. Where locations are split over workers, each worker
            holds its own share.
        dtype: of the stored keys; bfloat16 halves the memory.
    """

    def __init__(
        self,
        num_locations: int,
        size: int,
        dim: int = 128,
        *,
        locations: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_locations, self.size, self.dim = num_locations, size, dim
        self.locations = torch.arange(num_locations) if locations is None else locations.cpu().clone()
        self._row_N = torch.full((num_locations,), NOBODY)
        self._row_N[self.locations] = torch.arange(len(self.locations))
        self.keys_NKD = _lazy_zeros(len(self.locations), size, dim, dtype=dtype, device=torch.device(device))
        self.subjects_NK = torch.full((len(self.locations), size), NOBODY, device=device)
        # Bookkeeping stays on the CPU: reading it must not wait for an accelerator.
        self.count_N = torch.zeros(len(self.locations), dtype=torch.long)
        self.pointer_N = torch.zeros(len(self.locations), dtype=torch.long)

    @property
    def device(self) -> torch.device:
        """Where the keys are."""
        return self.keys_NKD.device

    def to(self, device: torch.device | str) -> KeyMemory:
        """Move the keys; returns the memory itself."""
        self.keys_NKD = self.keys_NKD.to(device)
        self.subjects_NK = self.subjects_NK.to(device)
        return self

    def filled(self, locations_G: Tensor) -> Tensor:
        """How many slots have been written, int64 [G], on the CPU."""
        return self.count_N[self._rows(locations_G)]

    def negatives(self, locations_G: Tensor) -> Negatives:
        """The keys of some locations, as many slots as the fullest of them has.

        With one location this is a view of the memory, not a copy: write (`enqueue`) after backward only.
        """
        rows_G = self._rows(locations_G)
        filled_G = self.count_N[rows_G]
        longest = int(filled_G.max())
        if len(rows_G) == 1:
            row = int(rows_G)
            keys_GMD, subjects_GM = (
                self.keys_NKD[row : row + 1, :longest],
                self.subjects_NK[row : row + 1, :longest],
            )
        else:
            on_device_G = rows_G.to(self.device)
            keys_GMD, subjects_GM = (
                self.keys_NKD[on_device_G, :longest],
                self.subjects_NK[on_device_G, :longest],
            )
        filled_GM = (torch.arange(longest) < filled_G[:, None]).to(self.device)
        return Negatives(keys_GMD, subjects_GM, filled_GM)

    @torch.no_grad()
    def enqueue(self, locations_G: Tensor, keys_GSD: Tensor, subjects_S: Tensor) -> None:
        """Store the keys of a batch, scan by scan; where the ring is full, the oldest ones go.

        Args:
            locations_G: distinct locations.
            keys_GSD: one key a location and scan.
            subjects_S: subject of each scan, or [G, S].

        Raises:
            ValueError: a location twice, or one that is not held here.
        """
        if len(torch.unique(locations_G)) != len(locations_G):
            raise ValueError(f"locations of a batch must be distinct, got {locations_G.tolist()}")
        rows_G = self._rows(locations_G)
        subjects_GS = subjects_S.to(self.device).expand(keys_GSD.shape[:2])
        scans = keys_GSD.shape[1]
        kept = min(scans, self.size)  # of more scans than slots only the last ones would survive
        slots_GS = (self.pointer_N[rows_G, None] + torch.arange(scans - kept, scans)) % self.size
        target = (rows_G[:, None].to(self.device), slots_GS.to(self.device))
        self.keys_NKD[target] = keys_GSD[:, scans - kept :].detach().to(self.keys_NKD)
        self.subjects_NK[target] = subjects_GS[:, scans - kept :]
        self.pointer_N[rows_G] = (self.pointer_N[rows_G] + scans) % self.size
        self.count_N[rows_G] = (self.count_N[rows_G] + scans).clamp(max=self.size)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; slots beyond the fullest location are left out."""
        longest = int(self.count_N.max()) if len(self.count_N) else 0
        return {
            "num_locations": self.num_locations,
            "size": self.size,
            "locations": self.locations.clone(),
            "keys": self.keys_NKD[:, :longest].cpu().clone(),
            "subjects": self.subjects_NK[:, :longest].cpu().clone(),
            "count": self.count_N.clone(),
            "pointer": self.pointer_N.clone(),
        }

    def load_state_dict(self, *states: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; also from several memories that together hold the locations held here, and more.

        So a memory that was split over workers is read by any other number of them.

        Raises:
            ValueError: a stored memory has another size or other features, or a location is in none of them.
        """
        self.keys_NKD = _lazy_zeros(*self.keys_NKD.shape, dtype=self.keys_NKD.dtype, device=self.device)
        self.subjects_NK.fill_(NOBODY)
        self.count_N.zero_()
        self.pointer_N.zero_()
        found_N = torch.zeros(len(self.locations), dtype=torch.bool)
        for state in states:
            stored = (state["num_locations"], state["size"], state["keys"].shape[2])
            if stored != (self.num_locations, self.size, self.dim):
                raise ValueError(
                    f"stored memory has (locations, slots, features) = {stored}, this one "
                    f"{(self.num_locations, self.size, self.dim)}"
                )
            there_N = torch.full((self.num_locations,), NOBODY)
            there_N[state["locations"]] = torch.arange(len(state["locations"]))
            here = torch.nonzero(there_N[self.locations] != NOBODY).flatten()
            rows, longest = there_N[self.locations[here]], state["keys"].shape[1]
            for row, source in zip(here.tolist(), rows.tolist(), strict=True):
                self.keys_NKD[row, :longest] = state["keys"][source].to(self.keys_NKD)
                self.subjects_NK[row, :longest] = state["subjects"][source].to(self.device)
            self.count_N[here], self.pointer_N[here] = state["count"][rows], state["pointer"][rows]
            found_N[here] = True
        if not found_N.all():
            missing = self.locations[~found_N].tolist()
            raise ValueError(f"stored memory lacks the locations {missing}")

    def _rows(self, locations_G: Tensor) -> Tensor:
        rows_G = self._row_N[locations_G.cpu()]
        if (rows_G == NOBODY).any():
            missing = locations_G.cpu()[rows_G == NOBODY].tolist()
            raise ValueError(f"locations {missing} are not held by this memory")
        return rows_G


def _lazy_zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # calloc: pages that are never written cost no memory, and the published setting would need 1.2 GB at once.
    if device.type == "cpu" and dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.zeros(shape, dtype=np.float32 if dtype == torch.float32 else np.float64))
    return torch.zeros(shape, dtype=dtype, device=device)
