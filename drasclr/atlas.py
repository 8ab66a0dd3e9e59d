"""The atlas: where in the lungs patches are taken, which locations are neighbours, and how they are grouped.

Array legend: N locations, K neighbours, 3 axes. Voxel indices and coordinates are x, y, z; millimetres are LPS;
mask arrays are z, y, x as numpy and SimpleITK hand them out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "drasclr-atlas-1"


@dataclass(frozen=True, eq=False)
class Atlas:
    """A template grid and the patch locations on it; one JSON file on disk.

    Attributes:
        size: voxels of the template along x, y, z.
        spacing: voxel size, mm, x, y, z.
        origin: physical position of voxel (0, 0, 0), mm, LPS.
        direction: 3 x 3 direction cosines, row by row, as in SimpleITK.
        patch_size: voxels along each side of a patch.
        step: distance of neighbouring locations, voxels.
        corners_N3: voxel index x, y, z of the lowest corner of each patch.
        neighbours_NK: the K nearest other locations of each location, nearest first; see `nearest`.
        blocks_N: number of the spatially compact block that each location belongs to.
        template_sha256: of the lung mask that the locations were derived from.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    corners_N3: np.ndarray
    neighbours_NK: np.ndarray
    blocks_N: np.ndarray
    template_sha256: str
    patch_size: int = 32
    step: int = 26

    def __post_init__(self) -> None:
        for name in ("corners_N3", "neighbours_NK", "blocks_N"):
            array = np.array(getattr(self, name), dtype=np.int64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        count = len(self.corners_N3)
        if self.corners_N3.shape != (count, 3) or count == 0:
            raise ValueError(
                f"an atlas needs corners of shape [N, 3] with N > 0, got {self.corners_N3.shape}"
            )
        if (
            self.neighbours_NK.ndim != 2
            or len(self.neighbours_NK) != count
            or self.blocks_N.shape != (count,)
        ):
            raise ValueError(
                f"{count} locations, but neighbours have shape {self.neighbours_NK.shape} "
                f"and blocks {self.blocks_N.shape}"
            )

    @classmethod
    def from_template(
        cls,
        mask_ZYX: np.ndarray,
        *,
        spacing: tuple[float, float, float],
        origin: tuple[float, float, float],
        direction: tuple[float, ...],
        patch_size: int = 32,
        step: int = 26,
        min_lung_fraction: float = 0.1,
        neighbours: int = 2,
        block_size: int = 32,
        corners_N3: np.ndarray | None = None,
    ) -> Atlas:
        """Lay the grid of locations over a lung mask (paper, section 3.1).

        Corners run over the voxels 0, step, 2 step, ... along each axis as long as the patch fits; kept are those
        where more than `min_lung_fraction` of the patch is lung; order is x, then y, then z.

        Args:
            mask_ZYX: lung mask, anything above 0 is lung.
            corners_N3: take these corners (voxel index x, y, z) as they are, instead of the rule; so the authors'
                own list is used with their template.

        Raises:
            ValueError: no location fits, or a given corner lies outside the template.
        """
        mask_XYZ = np.ascontiguousarray((np.asarray(mask_ZYX) > 0).transpose(2, 1, 0))
        size = mask_XYZ.shape
        if corners_N3 is None:
            ranges = [np.arange(0, length - patch_size + 1, step) for length in size]
            grid_N3 = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
            fractions = lung_fraction(mask_XYZ, grid_N3, patch_size=patch_size)
            corners_N3 = grid_N3[fractions > min_lung_fraction]
            if len(corners_N3) == 0:
                raise ValueError(
                    f"no patch of {patch_size} voxels holds more than {min_lung_fraction:.0%} lung in a template of "
                    f"{size} voxels; use a finer template, a smaller patch or a lower fraction"
                )
        corners_N3 = np.asarray(corners_N3, dtype=np.int64)
        outside = (corners_N3 < 0).any(1) | (corners_N3 + patch_size > np.array(size)).any(1)
        if outside.any():
            raise ValueError(
                f"{outside.sum()} corners lie outside the template of {size} voxels, the first is "
                f"{corners_N3[outside][0].tolist()}; corners and template do not belong together"
            )
        points_N3 = corners_N3 * np.asarray(spacing, dtype=np.float64)
        blocks_N = compact_blocks(points_N3, block_size=block_size)
        return cls(
            size=(int(size[0]), int(size[1]), int(size[2])),
            spacing=_triple(spacing),
            origin=_triple(origin),
            direction=tuple(float(value) for value in direction),
            corners_N3=corners_N3,
            neighbours_NK=nearest(points_N3, count=neighbours, blocks_N=blocks_N),
            blocks_N=blocks_N,
            template_sha256=hashlib.sha256(np.packbits(mask_XYZ).tobytes() + repr(size).encode()).hexdigest(),
            patch_size=patch_size,
            step=step,
        )

    @property
    def num_locations(self) -> int:
        """N."""
        return len(self.corners_N3)

    @property
    def num_blocks(self) -> int:
        """Blocks are numbered from 0."""
        return int(self.blocks_N.max()) + 1

    @cached_property
    def centres_mm_N3(self) -> np.ndarray:
        """Centre of each patch, mm, LPS, float64."""
        index_N3 = self.corners_N3 + (self.patch_size - 1) / 2
        rotation = np.array(self.direction).reshape(3, 3)
        centres_N3: np.ndarray = (index_N3 * np.array(self.spacing)) @ rotation.T + np.array(self.origin)
        return centres_N3

    @cached_property
    def coordinates_N3(self) -> np.ndarray:
        """What the encoder gets: corner / largest corner * 2 - 1 along each axis, float32, as published."""
        largest_3 = np.maximum(self.corners_N3.max(0), 1)
        coordinates_N3: np.ndarray = (self.corners_N3 / largest_3 * 2 - 1).astype(np.float32)
        return coordinates_N3

    def coordinates_at(self, points_mm_M3: np.ndarray) -> np.ndarray:
        """What the encoder gets for patches centred anywhere: points in mm, LPS, of the template -> float32 [M, 3].

        At `centres_mm_N3` this is `coordinates_N3`; outside the range of the locations the nearest value in [-1, 1].
        """
        rotation = np.array(self.direction).reshape(3, 3)
        index_M3 = (
            (np.asarray(points_mm_M3) - np.array(self.origin)) @ np.linalg.inv(rotation).T
        ) / self.spacing
        corner_M3 = index_M3 - (self.patch_size - 1) / 2
        largest_3 = np.maximum(self.corners_N3.max(0), 1)
        coordinates_M3: np.ndarray = np.clip(corner_M3 / largest_3 * 2 - 1, -1, 1).astype(np.float32)
        return coordinates_M3

    @cached_property
    def hash(self) -> str:
        """Hexadecimal digest of everything in the atlas."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def members(self, block: int) -> np.ndarray:
        """Locations of a block, ascending."""
        return np.flatnonzero(self.blocks_N == block)

    def halo(self, block: int) -> np.ndarray:
        """Locations outside a block that are neighbours of a location inside it, ascending."""
        members = self.members(block)
        return np.setdiff1d(self.neighbours_NK[members].ravel(), members)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        plain: dict[str, Any] = {"format": FORMAT}
        for field in fields(self):
            value = getattr(self, field.name)
            plain[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Atlas:
        """Inverse of `to_json`.

        Raises:
            ValueError: not an atlas, or one of another version.
        """
        if plain.get("format") != FORMAT:
            raise ValueError(f"not an atlas of format {FORMAT!r}: its format is {plain.get('format')!r}")
        values = {field.name: plain[field.name] for field in fields(cls)}
        for name in ("size", "spacing", "origin", "direction"):
            values[name] = tuple(values[name])
        # An atlas without neighbours has N empty lists, from which numpy could not tell the second dimension.
        values["neighbours_NK"] = np.array(values["neighbours_NK"], dtype=np.int64).reshape(
            len(values["corners_N3"]), -1
        )
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write atlas.json."""
        Path(path).write_text(json.dumps(self.to_json()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Atlas:
        """Read atlas.json, or the atlas.json in a folder."""
        path = Path(path)
        return cls.from_json(
            json.loads((path / "atlas.json" if path.is_dir() else path).read_text(encoding="utf-8"))
        )


def lung_fraction(mask_XYZ: np.ndarray, corners_N3: np.ndarray, *, patch_size: int) -> np.ndarray:
    """Share of each patch that is lung, float64 [N]; patches may hang over the edge, where there is no lung."""
    table = np.zeros([length + 1 for length in mask_XYZ.shape], dtype=np.int32)
    table[1:, 1:, 1:] = mask_XYZ
    for axis in range(3):
        np.cumsum(table, axis=axis, out=table)
    low_N3 = np.clip(corners_N3, 0, mask_XYZ.shape)
    high_N3 = np.clip(corners_N3 + patch_size, 0, mask_XYZ.shape)
    total_N = np.zeros(len(corners_N3), dtype=np.int64)
    for upper in np.ndindex(2, 2, 2):
        corner_N3 = np.where(np.array(upper, dtype=bool), high_N3, low_N3)
        total_N += (-1) ** (3 - sum(upper)) * table[tuple(corner_N3.T)]
    return total_N / patch_size**3


def compact_blocks(points_N3: np.ndarray, *, block_size: int) -> np.ndarray:
    """Group points into spatially compact blocks of nearly equal size, about `block_size` points each.

    Recursive bisection: cut across the longest side of the bounding box, so that both halves hold whole blocks.
    """
    blocks_N = np.zeros(len(points_N3), dtype=np.int64)
    queue = [(np.arange(len(points_N3)), max(1, round(len(points_N3) / block_size)))]
    done = 0
    while queue:
        members, count = queue.pop(0)
        if count == 1:
            blocks_N[members] = done
            done += 1
            continue
        points = points_N3[members]
        axis = int(np.argmax(np.ptp(points, axis=0)))
        # The other axes and the index break ties, so that the cut never depends on the sorting algorithm.
        keys = (members, *(points[:, other] for other in range(3) if other != axis), points[:, axis])
        ordered = members[np.lexsort(keys)]
        lower = count // 2
        cut = round(len(members) * lower / count)
        queue = [(np.sort(ordered[:cut]), lower), (np.sort(ordered[cut:]), count - lower), *queue]
    return blocks_N


def nearest(points_N3: np.ndarray, *, count: int, blocks_N: np.ndarray) -> np.ndarray:
    """The `count` nearest other points of each point, nearest first, int64 [N, count].

    On a regular grid most points have several candidates at exactly the same distance. Rule for ties: a point of
    the same block first (it is read together with the anchor anyway), then the smaller value of a fixed integer mix
    of both indices, so that no direction is preferred, then the smaller index.

    Raises:
        ValueError: there are not so many other points.
    """
    number = len(points_N3)
    if count >= number:
        raise ValueError(
            f"{count} neighbours a location need at least {count + 1} locations; there are {number}"
        )
    index_N = np.arange(number)
    result_NK = np.empty((number, count), dtype=np.int64)
    for point in range(number):
        # Rounding to a micrometre makes distances that are equal on the grid equal in floating point, too.
        distance_N = np.round(((points_N3 - points_N3[point]) ** 2).sum(1), 6)
        distance_N[point] = np.inf
        other_block_N = blocks_N != blocks_N[point]
        mixed_N = ((index_N * 40503) ^ (point * 60493) ^ ((index_N + point) << 7)) % 65521
        result_NK[point] = np.lexsort((index_N, mixed_N, other_block_N, distance_N))[:count]
    return result_NK


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
