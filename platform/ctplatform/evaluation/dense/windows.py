"""Windows that slide over the lungs: where they are, what they hold, and the map that their classes paint.

The lungs are divided into tiles of `stride` voxels a side. Each tile that holds lung has one window of 32 voxels around
it; the class of the window is painted into the tile. So a map's resolution is the stride, and every voxel of lung
belongs to exactly one window.

Legend: M windows, C classes, ZYX voxels of the lung volume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ctplatform.evaluation.dense.lung_volume import MARGIN, LungVolume
from drasclr import augment
from drasclr.encoder import PATCH_SIZE

EMPHYSEMA_HU = -950
DENSITY = ("laa950", "perc15", "mean_hu", "lung")


@dataclass(frozen=True)
class Windows:
    """The windows of a lung volume.

    Attributes:
        tiles_M3: the tiles' indices z, y, x.
        stride: voxels a side of a tile.
        shape: of the lung volume.
    """

    tiles_M3: np.ndarray
    stride: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tiles_M3)

    @property
    def corners_M3(self) -> np.ndarray:
        """Lowest voxel of each window, z, y, x; always at least 0."""
        return MARGIN + self.tiles_M3 * self.stride - (PATCH_SIZE - self.stride) // 2

    @property
    def centres_M3(self) -> np.ndarray:
        """Middle of each window and of its tile, voxel index z, y, x."""
        return self.corners_M3 + (PATCH_SIZE - 1) / 2

    def take(self, rows: np.ndarray) -> Windows:
        """Some of the windows."""
        return Windows(self.tiles_M3[rows], self.stride, self.shape)

    def count(self, mask_ZYX: np.ndarray) -> np.ndarray:
        """True voxels of a mask within each tile, int64 [M]."""
        z, y, x = self.tiles_M3.T
        return np.asarray(_blocks(mask_ZYX, self.stride)[z, y, x])

    def classes(self, labels_ZYX: np.ndarray, lungs_ZYX: np.ndarray, *, classes: int) -> np.ndarray:
        """Voxels of each class 1 to C within each tile and the lungs, int64 [M, C]."""
        return np.stack([self.count((labels_ZYX == c) & lungs_ZYX) for c in range(1, classes + 1)], axis=1)

    def paint(self, values_M: np.ndarray, lungs_ZYX: np.ndarray) -> np.ndarray:
        """Each window's value in its tile's lung voxels; 0 elsewhere; [z, y, x] of the values' type."""
        grid = np.zeros([-(-max(n - MARGIN, 0) // self.stride) for n in self.shape], values_M.dtype)
        grid[tuple(self.tiles_M3.T)] = values_M
        for axis in range(3):
            grid = grid.repeat(self.stride, axis)
        z, y, x = (n - MARGIN for n in self.shape)
        painted = np.zeros(self.shape, values_M.dtype)
        painted[MARGIN:, MARGIN:, MARGIN:] = grid[:z, :y, :x]
        return np.asarray(painted * lungs_ZYX)


def windows_of(lungs_ZYX: np.ndarray, *, stride: int) -> Windows:
    """One window for each tile with a voxel of lung; the lungs keep `MARGIN` voxels from the volume's faces."""
    return Windows(np.argwhere(_blocks(lungs_ZYX, stride) > 0), stride, lungs_ZYX.shape)


def cut(hu_ZYX: np.ndarray, corners_M3: np.ndarray) -> np.ndarray:
    """The windows at these corners, int16 [M, 32, 32, 32]; air beyond the upper faces."""
    padded = pad_upper(hu_ZYX)
    size = PATCH_SIZE
    return np.stack([padded[z : z + size, y : y + size, x : x + size] for z, y, x in corners_M3])


def pad_upper(hu_ZYX: np.ndarray) -> np.ndarray:
    """The volume with a window of air behind each upper face, over which the last windows reach."""
    return np.pad(hu_ZYX, ((0, PATCH_SIZE),) * 3, constant_values=hu_ZYX.min())


def normaliser(hu_window: tuple[int, int], device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """A function from int16 windows [M, 1, D, H, W] to the encoder's range, on a device."""

    def normalise(hu_M1DHW: Tensor) -> Tensor:
        return augment.normalise(hu_M1DHW.squeeze(1).to(device), hu_window=hu_window)

    return normalise


def density(volume: LungVolume, windows: Windows) -> np.ndarray:
    """The local density baseline, float32 [M, 4]: LAA-950, Perc15, mean HU of a window's lung; lung's share of it."""
    hu_ZYX, lungs_ZYX = pad_upper(volume.hu_ZYX), np.pad(volume.lungs_ZYX, ((0, PATCH_SIZE),) * 3)
    rows = []
    for z, y, x in windows.corners_M3:
        part = slice(z, z + PATCH_SIZE), slice(y, y + PATCH_SIZE), slice(x, x + PATCH_SIZE)
        hu = hu_ZYX[part][lungs_ZYX[part]]
        rows.append(((hu < EMPHYSEMA_HU).mean(), np.percentile(hu, 15), hu.mean(), hu.size / PATCH_SIZE**3))
    return np.array(rows, np.float32).reshape(-1, len(DENSITY))


def to_tensor(hu_ZYX: np.ndarray) -> Tensor:
    """The padded volume from which windows are cut."""
    return torch.from_numpy(pad_upper(hu_ZYX))


def _blocks(mask_ZYX: np.ndarray, stride: int) -> np.ndarray:
    """True voxels of each tile."""
    inner = mask_ZYX[MARGIN:, MARGIN:, MARGIN:]
    inner = np.pad(inner, [(0, -n % stride) for n in inner.shape])
    z, y, x = (n // stride for n in inner.shape)
    return np.asarray(inner.reshape(z, stride, y, stride, x, stride).sum((1, 3, 5), dtype=np.int64))
