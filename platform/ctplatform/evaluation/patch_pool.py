"""Patches of a fixed set of locations, and the random batches of them that end-to-end training takes.

Legend: L locations, S subjects (scans) of a batch, P features, D H W space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from cachetools import LRUCache, cached
from torch import Tensor

from ctplatform.dataset.shards import read_patches
from ctplatform.storage.workspace import Workspace
from drasclr import augment
from drasclr.encoder import Encoder

CACHE_BYTES = 2 << 30
SCANS_PER_CALL = 8  # encoded together
#: One a worker process: trials that follow reuse it.
_cache: LRUCache[tuple[str, str, bytes], np.ndarray] = LRUCache(CACHE_BYTES, getsizeof=lambda hu: hu.nbytes)


class PatchPool:
    """Patches of a fixed set of locations of each scan, read once a process while they fit in CACHE_BYTES.

    Args:
        workspace: holds the shards.
        coordinates_N3: normalised coordinates of all of the atlas's locations.
        scans: subject -> its scans.
        size: locations of the pool, spread evenly over the atlas's order.
        hu_window: normalisation.
        device: where batches go.
    """

    def __init__(
        self,
        workspace: Workspace,
        coordinates_N3: np.ndarray,
        *,
        scans: Mapping[str, Sequence[str]],
        size: int,
        hu_window: tuple[float, float] = (-1024, 240),
        device: str = "cpu",
    ) -> None:
        count = len(coordinates_N3)
        self.locations_L = np.unique(np.linspace(0, count - 1, min(size, count)).round().astype(int))
        self.coordinates_L3 = torch.from_numpy(np.asarray(coordinates_N3[self.locations_L], np.float32)).to(
            device
        )
        self.workspace, self.scans, self.hu_window, self.device = workspace, scans, hu_window, device

    def scan(self, scan_id: str) -> np.ndarray:
        """hu_LDHW int16 of one scan."""
        return _patches(self.workspace, scan_id, self.locations_L)

    def batch(self, scan_ids: Sequence[str], rows: np.ndarray) -> Tensor:
        """[L, S, 1, D, H, W] normalised patches of some of the pool's locations."""
        hu_LSDHW = np.stack([self.scan(scan_id)[rows] for scan_id in scan_ids], axis=1)
        return augment.normalise(torch.from_numpy(hu_LSDHW).to(self.device), hu_window=self.hu_window)

    def draw(
        self, subjects: Sequence[str], locations: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Some of the pool's locations, the same for all subjects, and one scan of each subject at random.

        Args:
            subjects: one a column of the batch; all are keys of `scans`.
            locations: how many; all of the pool's where it has no more.
            rng: draws the locations, then the scans.

        Returns:
            Normalised patches [L, S, 1, D, H, W], and the locations' coordinates [L, 3].
        """
        count = len(self.locations_L)
        rows_L = np.sort(rng.permutation(count)[: min(locations, count)])
        scan_ids = [rng.choice(self.scans[subject]) for subject in subjects]
        return self.batch(scan_ids, rows_L), self.coordinates_L3[torch.from_numpy(rows_L).to(self.device)]

    def mixed_batches(
        self,
        subjects: Sequence[str],
        locations: int,
        rows: Iterator[np.ndarray],
        rng: np.random.Generator,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without end that mix locations, for normalisation statistics: one row a subject and location.

        Args:
            subjects: all that batches are drawn from.
            locations: of a batch, as for `draw`.
            rows: the subjects of each batch, `batches_of_rows` for example.
            rng: as for `draw`.

        Yields:
            Normalised patches [L S, 1, D, H, W], and the coordinates of each, [L S, 3].
        """
        for rows_S in rows:
            patches, coordinates = self.draw([subjects[row] for row in rows_S], locations, rng)
            yield patches.flatten(0, 1), coordinates.repeat_interleave(patches.shape[1], dim=0)

    @torch.no_grad()
    def features(self, encoder: Encoder, subjects: Sequence[str]) -> np.ndarray:
        """Feature of each subject at each of the pool's locations, mean over its scans: x_SLP float64.

        The encoder is left in evaluation mode. It encodes several scans at a time, for the sake of its kernels, which
        are mixed once a location and call.
        """
        encoder.eval()
        everywhere = np.arange(len(self.locations_L))
        scan_ids = [scan_id for subject in subjects for scan_id in self.scans[subject]]
        parts = [
            encoder.grouped(
                self.batch(scan_ids[at : at + SCANS_PER_CALL], everywhere), self.coordinates_L3
            ).transpose(0, 1)
            for at in range(0, len(scan_ids), SCANS_PER_CALL)
        ]
        x_NLP = torch.cat(parts).double().cpu().numpy()
        ends = np.cumsum([len(self.scans[subject]) for subject in subjects])
        return np.stack([x_SLP.mean(0) for x_SLP in np.split(x_NLP, ends[:-1])])


@cached(_cache, key=lambda workspace, scan_id, locations_L: (workspace.uri, scan_id, locations_L.tobytes()))
def _patches(workspace: Workspace, scan_id: str, locations_L: np.ndarray) -> np.ndarray:
    return read_patches(workspace, scan_id, locations_L)[1]


def batches_of_rows(rng: np.random.Generator, count: int, *, size: int) -> Iterator[np.ndarray]:
    """Batches of subject rows without end: without replacement within a pass, the rest of a pass joined to the next.

    Args:
        rng: draws an order for each pass.
        count: number of subjects.
        size: rows a batch; `count` where there are fewer subjects.

    Yields:
        [S] int, different rows.
    """
    size, waiting = min(size, count), np.empty(0, int)
    while True:
        while len(waiting) < size:
            fresh = rng.permutation(count)
            fresh = np.concatenate([fresh[~np.isin(fresh, waiting)], fresh[np.isin(fresh, waiting)]])
            waiting = np.concatenate([waiting, fresh])
        yield waiting[:size]
        waiting = waiting[size:]
