"""Interpolation of a volume on a box, one axis after the other, each as products with small dense matrices.

A cubic B-spline through the voxels is linear in them: position i takes the weights W[i] = B[i] A^-1, where A samples
the basis at the voxels (tridiagonal) and B at the position. A^-1 decays by 0.27 a voxel, so a block of positions needs
the voxels around it and a dozen more, and no filtered copy of the volume is ever made.

Source: Unser, Splines: a perfect fit for signal and image processing, 1999, doi:10.1109/79.799930.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.imaging.hounsfield import PADDING_HU

BLOCK = 64
NEGLIGIBLE = 1e-5
"""Weights below this are dropped; their sum changes a value by less than 0.05 HU."""
VANISHING = 1e-30
"""Weights below this, between larger ones, become 0: products with denormal numbers take many times as long, and no
rounded sum shows them."""

CELL = 8
"""Side in voxels of the cells of which `resample_box` leaves out those that no cube touches."""

Interpolation = Literal["bspline", "linear"]


@dataclass(frozen=True)
class Axis:
    """Interpolation along one axis.

    Attributes:
        blocks: positions, the voxels they depend on, and the weights [positions, voxels], float32.
        outside_N: positions more than half a voxel beyond the ends; they get padding.
    """

    blocks: tuple[tuple[slice, slice, NDArray[np.float32]], ...]
    outside_N: NDArray[np.bool_]

    @classmethod
    def at(cls, positions_N: NDArray[np.floating], count: int, kind: Interpolation) -> Axis:
        """Continuous indices into an axis of `count` voxels, mirrored at the first and the last one."""
        outside_N = (positions_N < -0.5) | (positions_N > count - 0.5)
        weights_NV = _weights(np.clip(positions_N, -0.5, count - 0.5), count, kind)
        blocks = []
        for start in range(0, len(positions_N), BLOCK):
            block = slice(start, min(start + BLOCK, len(positions_N)))
            if outside_N[block].all():
                continue
            used = np.flatnonzero((np.abs(weights_NV[block][~outside_N[block]]) > NEGLIGIBLE).any(axis=0))
            taken = slice(int(used[0]), int(used[-1]) + 1)
            weights = np.ascontiguousarray(weights_NV[block, taken], np.float32)
            weights[np.abs(weights) < VANISHING] = 0
            blocks.append((block, taken, weights))
        return cls(tuple(blocks), outside_N)

    @cached_property
    def used(self) -> slice:
        """The range of voxels that any position depends on."""
        if not self.blocks:
            return slice(0, 0)
        return slice(min(t.start for _, t, _ in self.blocks), max(t.stop for _, t, _ in self.blocks))

    def inside_share(self, start_N: NDArray[np.integer], size: int) -> NDArray[np.float64]:
        """For each window of `size` positions, the share of them that is inside."""
        running = np.concatenate([[0], np.cumsum(~self.outside_N)])
        return np.asarray((running[start_N + size] - running[start_N]) / size)


def interpolate_box(
    volume_ZYX: NDArray[np.int16], axes: tuple[Axis, Axis, Axis], hu_window: tuple[int, int]
) -> NDArray[np.int16]:
    """Interpolate a volume on a box.

    Args:
        axes: along x, y, z.

    Returns:
        int16 [z,y,x] in the window; -1024 outside the volume. Memory beside the two volumes: a few dozen slices.
    """
    box_ZYX = np.empty([len(axis.outside_N) for axis in reversed(axes)], np.int16)
    for where, part_ZYX in interpolate_parts(volume_ZYX, axes, hu_window):
        box_ZYX[where] = part_ZYX
    return box_ZYX


def interpolate_parts(
    volume_ZYX: NDArray[np.int16], axes: tuple[Axis, Axis, Axis], hu_window: tuple[int, int]
) -> Iterator[tuple[slice, NDArray[np.int16]]]:
    """The box of `interpolate_box` in parts along z: (positions, int16 [z,y,x], which lasts until the next part)."""
    along_x, along_y, along_z = axes
    shape_YX = (len(along_y.outside_N), len(along_x.outside_N))
    buffer_ZYX = np.empty((BLOCK, *shape_YX), np.int16)
    products_ZN = np.empty((BLOCK, shape_YX[0] * shape_YX[1]), np.float32)
    end = 0
    for block, slabs, weights in _slabs(volume_ZYX, axes) if along_x.blocks and along_y.blocks else ():
        yield from _padding(buffer_ZYX, end, block.start)
        part_ZYX = buffer_ZYX[: block.stop - block.start]
        product_ZN = products_ZN[: len(part_ZYX)]
        # Of all columns at once: in which order BLAS sums a column depends on where it lies among them.
        np.matmul(weights, slabs.reshape(len(slabs), -1), out=product_ZN)
        for hu_N, value_N in zip(part_ZYX.reshape(product_ZN.shape), product_ZN, strict=True):
            np.rint(value_N, out=value_N)
            np.clip(value_N, *hu_window, out=value_N)
            hu_N[:] = value_N
        part_ZYX[along_z.outside_N[block]] = PADDING_HU
        part_ZYX[:, along_y.outside_N] = PADDING_HU
        part_ZYX[:, :, along_x.outside_N] = PADDING_HU
        yield block, part_ZYX
        end = block.stop
    yield from _padding(buffer_ZYX, end, len(along_z.outside_N))


def _padding(
    buffer_ZYX: NDArray[np.int16], start: int, stop: int
) -> Iterator[tuple[slice, NDArray[np.int16]]]:
    """Parts outside of the volume."""
    for first in range(start, stop, BLOCK):
        part_ZYX = buffer_ZYX[: min(BLOCK, stop - first)]
        part_ZYX.fill(PADDING_HU)
        yield slice(first, first + len(part_ZYX)), part_ZYX


def _slabs(
    volume_ZYX: NDArray[np.int16], axes: tuple[Axis, Axis, Axis]
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.float32]]]:
    """For every block along z: the slices [voxels,y,x] that it depends on, interpolated along x and y, each once."""
    along_x, along_y, along_z = axes
    shape_YX = (len(along_y.outside_N), len(along_x.outside_N))
    most = max((taken.stop - taken.start for _, taken, _ in along_z.blocks), default=0)
    slabs = np.zeros((most, *shape_YX), np.float32)
    rows = np.zeros((shape_YX[0], along_x.used.stop - along_x.used.start), np.float32)
    held = slice(0, 0)
    for block, taken, weights in along_z.blocks:
        kept = max(0, held.stop - taken.start)
        slabs[:kept] = slabs[taken.start - held.start : held.stop - held.start][:kept].copy()
        for z in range(taken.start + kept, taken.stop):
            # Values below air are padding of the reconstruction circle; they must not ring into the body.
            slice_YX = np.maximum(volume_ZYX[z, along_y.used, along_x.used], PADDING_HU).astype(np.float32)
            _apply(along_y, slice_YX, rows)
            _apply(along_x, rows.T, slabs[z - taken.start].T)
        held = taken
        yield block, slabs[: taken.stop - taken.start], weights


def _apply(axis: Axis, values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Interpolate the first dimension of `values`, which starts at the first voxel in use, into `out`."""
    first = axis.used.start
    for block, taken, weights in axis.blocks:
        out[block] = weights @ values[taken.start - first : taken.stop - first]


def _weights(positions_N: NDArray[np.floating], count: int, kind: Interpolation) -> NDArray[np.float64]:
    """Weights [positions, voxels] of the interpolation through the voxels."""
    from scipy.linalg import solve_banded

    low_N = np.floor(positions_N).astype(np.int64)
    f = positions_N - low_N
    if kind == "linear":
        taps = {0: 1 - f, 1: f}
    else:
        taps = {
            -1: (1 - f) ** 3 / 6,
            0: 2 / 3 - f * f * (2 - f) / 2,
            1: 2 / 3 - (1 - f) ** 2 * (1 + f) / 2,
            2: f**3 / 6,
        }
    basis_NV = np.zeros((len(positions_N), count))
    for offset, weight_N in taps.items():
        mirrored_N = np.abs(low_N + offset)
        mirrored_N = np.minimum(mirrored_N, 2 * (count - 1) - mirrored_N)
        np.add.at(basis_NV, (np.arange(len(positions_N)), mirrored_N), weight_N)
    if kind == "linear":
        return basis_NV
    # Rows of A are 1/6, 4/6, 1/6; the mirror doubles the neighbour of an end, which is a column of the transpose.
    transposed_3V = np.repeat([[1 / 6], [4 / 6], [1 / 6]], count, axis=1)
    transposed_3V[2, 0] = transposed_3V[0, -1] = 2 / 6
    return np.asarray(solve_banded((1, 1), transposed_3V, basis_NV.T).T)


def resample_box(
    image: sitk.Image,
    to_index_44: NDArray[np.float64],
    size_3: NDArray[np.integer],
    kind: Interpolation,
    hu_window: tuple[int, int],
    *,
    cubes: tuple[NDArray[np.integer], int] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """The same on a box whose axes are turned against the volume's, voxel by voxel: slower by far.

    Args:
        to_index_44: index of the box (x,y,z) -> continuous index of the volume.
        cubes: (lowest voxels [N,3] x,y,z, side in voxels) of what is needed; all of the box if None.

    Returns:
        int16 [z,y,x] and which voxels lie in the volume. What is not needed is padding, and does not lie in it.
    """
    from scipy import ndimage

    limit_3 = np.array(image.GetSize())
    corners_N3 = np.stack(np.meshgrid(*((0, n - 1) for n in size_3)), axis=-1).reshape(-1, 3)
    corners_N3 = corners_N3 @ to_index_44[:3, :3].T + to_index_44[:3, 3]
    low_3 = np.clip(np.floor(corners_N3.min(axis=0)) - 12, 0, limit_3 - 1).astype(int)
    high_3 = np.clip(np.ceil(corners_N3.max(axis=0)) + 13, low_3 + 1, limit_3).astype(int)
    part = sitk.GetArrayViewFromImage(image)[tuple(slice(a, b) for a, b in zip(low_3[::-1], high_3[::-1]))]
    part = np.maximum(part, PADDING_HU).astype(np.float32)
    order = 3 if kind == "bspline" else 1
    if order == 3:
        part = ndimage.spline_filter(part, order=3, output=np.float32, mode="mirror")
    box_ZYX = np.full(size_3[::-1], PADDING_HU, np.int16)
    inside_ZYX = np.zeros(box_ZYX.shape, bool)
    for piece in _pieces(size_3, cubes):
        first_3 = np.array([piece[2].start, piece[1].start, piece[0].start])
        inside = _inside(to_index_44, piece, limit_3)
        inside_ZYX[piece] = inside
        if not inside.any():
            continue
        value = ndimage.affine_transform(
            part,
            to_index_44[:3, :3][::-1, ::-1],
            (to_index_44[:3, 3] - low_3 + to_index_44[:3, :3] @ first_3)[::-1],
            inside.shape,
            output=np.float32,
            order=order,
            mode="mirror",
            prefilter=False,
        )
        np.rint(value, out=value)
        np.clip(value, *hu_window, out=value)
        value[~inside] = PADDING_HU
        box_ZYX[piece] = value
    return box_ZYX, inside_ZYX


def _inside(
    to_index_44: NDArray[np.float64], piece: tuple[slice, slice, slice], limit_3: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Which voxels of a piece [z,y,x] of the box lie in the volume of `limit_3` voxels."""
    inside_ZYX = np.ones([part.stop - part.start for part in piece], bool)
    for axis, count in enumerate(limit_3):
        z, y, x = (
            to_index_44[axis, 2 - j] * np.arange(part.start, part.stop) for j, part in enumerate(piece)
        )
        index_ZYX = (to_index_44[axis, 3] + z)[:, None, None] + y[:, None] + x
        inside_ZYX &= (index_ZYX >= -0.5) & (index_ZYX <= count - 0.5)
    return inside_ZYX


def _pieces(
    size_3: NDArray[np.integer], cubes: tuple[NDArray[np.integer], int] | None
) -> Iterator[tuple[slice, slice, slice]]:
    """Disjoint parts of the box, slices z, y, x, that hold all cubes: runs along x of cells that a cube touches."""
    if cubes is None:
        yield (slice(0, int(size_3[2])), slice(0, int(size_3[1])), slice(0, int(size_3[0])))
        return
    start_N3, side = cubes
    touched_ZYX = np.zeros([-(-int(n) // CELL) for n in reversed(size_3)], bool)
    for x, y, z in start_N3:
        touched_ZYX[tuple(slice(n // CELL, -(-(n + side) // CELL)) for n in (z, y, x))] = True
    for z, y in np.argwhere(touched_ZYX.any(axis=2)):
        edges = np.flatnonzero(np.diff(touched_ZYX[z, y], prepend=False, append=False))
        for start, stop in edges.reshape(-1, 2):
            corners = ((z, z + 1), (y, y + 1), (start, stop))
            yield tuple(  # type: ignore[misc]  # three, as there are corners
                slice(int(a) * CELL, min(int(b) * CELL, int(n)))
                for (a, b), n in zip(corners, reversed(size_3))
            )
