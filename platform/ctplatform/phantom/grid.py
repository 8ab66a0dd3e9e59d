"""The two grids of a phantom: a coarse one for smooth shapes, the scan's own for everything rendered.

Scan frame: mm along the image axes (x, y, z), zero in the middle of the thorax. Body frame: see `parameters`. The two
differ by a rotation, a shift and a smooth warp. Arrays are z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

COARSE_MM = 5.0


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """Rotation about x, then y, then z; 3 x 3."""
    ax, ay, az = np.deg2rad(np.asarray(degrees, float))
    cx, sx, cy, sy, cz, sz = np.cos(ax), np.sin(ax), np.cos(ay), np.sin(ay), np.cos(az), np.sin(az)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation_33: np.ndarray = about_z @ about_y @ about_x
    return rotation_33


@dataclass(frozen=True)
class Box:
    """A regular grid in the scan frame: position of the first voxel, spacing and size, all x, y, z."""

    start: np.ndarray
    spacing: np.ndarray
    size: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Array shape, z, y, x."""
        return int(self.size[2]), int(self.size[1]), int(self.size[0])

    def axis(self, a: int) -> np.ndarray:
        """Positions along axis `a` (0: x), mm."""
        positions: np.ndarray = (self.start[a] + self.spacing[a] * np.arange(self.size[a])).astype(np.float32)
        return positions

    def linear(self, weights: Sequence[float], offset: float = 0.0) -> np.ndarray:
        """weights . position + offset at every voxel, as an array of the grid's shape."""
        x, y, z = (np.float32(weights[a]) * self.axis(a) for a in range(3))
        return (z + np.float32(offset))[:, None, None] + y[None, :, None] + x[None, None, :]

    def voxels(self, points_N3: np.ndarray) -> np.ndarray:
        """Continuous voxel indices x, y, z of points in the scan frame."""
        index_N3: np.ndarray = (points_N3 - self.start) / self.spacing
        return index_N3

    def sample(self, field: np.ndarray, points_N3: np.ndarray) -> np.ndarray:
        """Trilinear value of an array on this grid at points in the scan frame."""
        values_N: np.ndarray = ndimage.map_coordinates(
            field, self.voxels(points_N3).T[::-1], order=1, mode="nearest"
        )
        return values_N

    def part(self, low: np.ndarray, high: np.ndarray) -> tuple[Box, tuple[slice, slice, slice]]:
        """The voxels from `low` to `high` (mm), as a grid of its own and as slices z, y, x of this one."""
        ends = []
        for a in range(3):  # one by one: NumPy takes longer to start on three numbers than to compute them
            start, spacing, size = float(self.start[a]), float(self.spacing[a]), int(self.size[a])
            first = min(max(math.floor((float(low[a]) - start) / spacing), 0), size - 1)
            last = min(max(math.ceil((float(high[a]) - start) / spacing) + 1, first + 1), size)
            ends.append((first, last))
        first_3, last_3 = np.array(ends).T
        box = Box(self.start + first_3 * self.spacing, self.spacing, last_3 - first_3)
        x, y, z = (slice(*pair) for pair in ends)
        return box, (z, y, x)


def resample(field: np.ndarray, source: Box, target: Box) -> np.ndarray:
    """Bring an array from one grid to another with aligned axes: separable Catmull-Rom, as three matrix products."""
    z, y, x = (_weights(source, target, a) for a in (2, 1, 0))
    out = np.tensordot(z, field, axes=(1, 0))
    resampled: np.ndarray = np.matmul(np.matmul(y, out), x.T)
    return resampled


def _weights(source: Box, target: Box, a: int) -> np.ndarray:
    n = int(source.size[a])
    position = (target.axis(a) - source.start[a]) / source.spacing[a]
    base = np.floor(position).astype(int)
    t = (position - base).astype(np.float32)
    taps = (
        -0.5 * t + t**2 - 0.5 * t**3,
        1 - 2.5 * t**2 + 1.5 * t**3,
        0.5 * t + 2 * t**2 - 1.5 * t**3,
        -0.5 * t**2 + 0.5 * t**3,
    )
    matrix = np.zeros((len(position), n), np.float32)
    rows = np.arange(len(position))
    for offset, tap in zip((-1, 0, 1, 2), taps):
        np.add.at(matrix, (rows, np.clip(base + offset, 0, n - 1)), tap)
    return matrix


def smooth_field(box: Box, *, length_mm: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian random field of mean 0 and SD about 1 that varies over `length_mm`, on the grid `box`."""
    size = np.maximum(np.ceil(box.size * box.spacing / length_mm).astype(int) + 4, 4)
    lattice = Box(box.start - 1.5 * length_mm, np.full(3, length_mm), size)
    values = rng.standard_normal(lattice.shape).astype(np.float32)
    return resample(values, lattice, box) * np.float32(1.3)


@dataclass(frozen=True)
class Frame:
    """Pose of the body in the scan: body = turn @ scan + offset + warp(scan), mm."""

    turn: np.ndarray
    offset: np.ndarray
    coarse: Box
    warp_3ZYX: np.ndarray

    @classmethod
    def posed(
        cls,
        *,
        turn: np.ndarray,
        offset: np.ndarray,
        reach: Sequence[float],
        warp_mm: float,
        rng: np.random.Generator,
    ) -> Frame:
        """A body in its pose, with a random warp; the coarse grid reaches `reach` mm from the middle along x, y, z."""
        half = np.ceil(np.asarray(reach) / COARSE_MM)
        coarse = Box(-half * COARSE_MM, np.full(3, COARSE_MM), (2 * half + 1).astype(int))
        warp = np.stack([warp_mm * smooth_field(coarse, length_mm=85.0, rng=rng) for _ in range(3)])
        return cls(turn=turn, offset=np.asarray(offset, float), coarse=coarse, warp_3ZYX=warp)

    def body_coordinates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y, z of the body frame at every coarse voxel."""
        x, y, z = (self.coarse.linear(self.turn[a], self.offset[a]) + self.warp_3ZYX[a] for a in range(3))
        return x, y, z

    def height_on(self, box: Box) -> np.ndarray:
        """Body z on a grid of the scan frame, without the warp."""
        return box.linear(self.turn[2], self.offset[2])

    def depth_on(self, box: Box) -> np.ndarray:
        """Body y on a grid of the scan frame, without the warp."""
        return box.linear(self.turn[1], self.offset[1])

    def to_scan(self, points_N3: np.ndarray) -> np.ndarray:
        """Points of the body frame in the scan frame (one fixed-point step undoes the warp)."""
        points = np.asarray(points_N3, float)
        first = (points - self.offset) @ self.turn
        moved = np.stack([self.coarse.sample(self.warp_3ZYX[a], first) for a in range(3)], axis=1)
        scan_N3: np.ndarray = (points - self.offset - moved) @ self.turn
        return scan_N3
