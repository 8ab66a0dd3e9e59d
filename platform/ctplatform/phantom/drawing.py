"""Drawing into a voxel grid: capsules, ellipsoids and small volumes, with partial volume at their edges.

Positions are mm in the scan frame. `alpha` is the covered fraction of a voxel, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ctplatform.phantom.grid import Box

CHUNK = 2_000_000


def capsule(
    box: Box, start: np.ndarray, end: np.ndarray, *, radius: float, end_radius: float | None = None
) -> tuple[tuple[slice, slice, slice], np.ndarray] | None:
    """Coverage of a capsule (a thick segment, tapering to `end_radius`) in the part of the grid around it.

    Returns:
        The slices z, y, x and alpha there; None if the capsule lies outside of the grid.
    """
    tip = radius if end_radius is None else end_radius
    reach = max(radius, tip) + float(box.spacing.max())
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    limit = box.start + (box.size - 1) * box.spacing
    if np.any(high < box.start) or np.any(low > limit):
        return None
    part, where = box.part(low, high)
    x, y, z = part.axis(0), part.axis(1)[:, None], part.axis(2)[:, None, None]
    a = start.astype(np.float32)
    d = (end - start).astype(np.float32)
    length2 = max(float(d @ d), 1e-6)
    px, py, pz = x - a[0], y - a[1], z - a[2]
    # A subject has some 1,600 capsules of a few thousand voxels: most of the time goes into starting passes over them.
    t = px * d[0] + py * d[1] + pz * d[2]
    t /= np.float32(length2)
    _to_unit(t)
    square = np.zeros_like(t)
    for offset, step in ((px, d[0]), (py, d[1]), (pz, d[2])):
        gap = t * step
        np.subtract(offset, gap, out=gap)
        gap *= gap
        square += gap
    t *= tip - radius
    t += radius
    t -= np.sqrt(square, out=square)
    return where, coverage(t, float(box.spacing.mean()))


def coverage(inside_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Covered fraction of voxels whose centres lie `inside_mm` within a surface."""
    alpha: np.ndarray = inside_mm * np.float32(1 / edge_mm)
    alpha += np.float32(0.5)
    return _to_unit(alpha)


def _to_unit(values: np.ndarray) -> np.ndarray:
    """Clip to 0 to 1 in place; `numpy.clip` takes three times as long for few values."""
    np.maximum(values, 0, out=values)
    np.minimum(values, 1, out=values)
    return values


def paint(volume: np.ndarray, where: tuple[slice, slice, slice], alpha: np.ndarray, value: float) -> None:
    """Blend `value` into the volume, in place."""
    view = volume[where]
    view += alpha * (np.float32(value) - view)


def stamp_ellipsoids(
    alpha: np.ndarray,
    box: Box,
    centres_N3: np.ndarray,
    radii_N3: np.ndarray,
    *,
    depth_N: np.ndarray | None = None,
    shell_mm: float = 0.0,
) -> None:
    """Draw many small ellipsoids with axes along the grid into `alpha`, in place, by maximum.

    Args:
        alpha: array on `box`, C-contiguous.
        depth_N: coverage in the middle of each; 1 if None.
        shell_mm: if positive, draw only a shell of this thickness around each.
    """
    flat = alpha.reshape(-1)
    reach = radii_N3 + shell_mm + float(box.spacing.max())
    limit = box.start + (box.size - 1) * box.spacing
    near = np.all((centres_N3 + reach > box.start) & (centres_N3 - reach < limit), axis=1)
    centres_N3, radii_N3 = centres_N3[near], radii_N3[near]
    depth_N = np.ones(len(centres_N3), np.float32) if depth_N is None else depth_N[near].astype(np.float32)
    edge = np.float32(box.spacing.mean())
    for group, steps in _stencils(box, radii_N3 + shell_mm + 0.5 * float(edge)):
        for part in np.array_split(group, max(1, len(group) * len(steps) // CHUNK)):
            index, inside, rho = _around(box, centres_N3[part], radii_N3[part], steps)
            mean_radius = radii_N3[part].mean(axis=1, keepdims=True).astype(np.float32)
            gap = (1 - rho) * mean_radius
            value = coverage(gap, float(edge))
            if shell_mm > 0:
                value = coverage(gap + np.float32(shell_mm), float(edge)) - value
            value *= depth_N[part][:, None]
            keep = inside & (value > 0.02)
            np.maximum.at(flat, index[keep], value[keep])


def _stencils(box: Box, radii_N3: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    half = np.ceil(radii_N3.max(axis=1, keepdims=True) / box.spacing).astype(int)
    for key in np.unique(half, axis=0):
        group = np.flatnonzero((half == key).all(axis=1))
        ranges = [np.arange(-h, h + 1) for h in key]
        steps = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
        yield group, steps


def _around(
    box: Box, centres_N3: np.ndarray, radii_N3: np.ndarray, steps_K3: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat index, whether inside the grid, and distance in radii of the voxels around each centre, [N, K] each."""
    exact = box.voxels(centres_N3)
    nearest = np.rint(exact).astype(np.int32)
    shape = (len(centres_N3), len(steps_K3))
    index, inside = np.zeros(shape, np.int32), np.ones(shape, bool)
    square = np.zeros(shape, np.float32)
    stride = 1
    for a in range(3):
        n = int(box.size[a])
        voxel = nearest[:, a, None] + steps_K3[:, a].astype(np.int32)
        inside &= (voxel >= 0) & (voxel < n)
        index += voxel * np.int32(stride)
        scale = (box.spacing[a] / radii_N3[:, a, None]).astype(np.float32)
        offset = ((nearest[:, a] - exact[:, a])[:, None] * scale).astype(np.float32)
        square += (steps_K3[:, a].astype(np.float32) * scale + offset) ** 2
        stride *= n
    return index, inside, np.sqrt(square, out=square)


def splat(box: Box, points_N3: np.ndarray, volume_N: np.ndarray) -> np.ndarray:
    """Spread small volumes (mm^3) over the eight voxels around each point; returns the covered fraction, unclipped."""
    position = box.voxels(points_N3)
    inside = np.all((position >= 0) & (position < box.size - 1), axis=1)
    position, mass = position[inside], volume_N[inside] / float(np.prod(box.spacing))
    base = np.floor(position).astype(np.int64)
    f = position - base
    nx, ny, nz = (int(n) for n in box.size)
    corners = [(dx, dy, dz) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
    index = np.stack(
        [((base[:, 2] + dz) * ny + base[:, 1] + dy) * nx + base[:, 0] + dx for dx, dy, dz in corners]
    )
    weight = np.stack([np.prod(np.where(c, f, 1 - f), axis=1) for c in np.array(corners)]) * mass
    return (
        np.bincount(index.ravel(), weight.ravel(), minlength=nx * ny * nz)
        .reshape(nz, ny, nx)
        .astype(np.float32)
    )
