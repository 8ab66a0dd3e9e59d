"""Affine resampling of a batch of patches.

Legend: N patches, DHW space; axes are D, H, W, columns of a transform x, y, z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def transform(rotation_N3: Tensor, translation_N3: Tensor, scale_N3: Tensor, *, size: torch.Size) -> Tensor:
    """Output to input transform in grid_sample's coordinates, [N, 3, 4], rows and columns x, y, z.

    In voxels about the centre of the patch, input = Rx Ry Rz (translation + scale * output), axes D, H, W.
    """
    c, s = rotation_N3.cos(), rotation_N3.sin()
    zero, one = torch.zeros_like(c[:, 0]), torch.ones_like(c[:, 0])

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 3, 3)

    first = matrix(one, zero, zero, zero, c[:, 0], -s[:, 0], zero, s[:, 0], c[:, 0])
    second = matrix(c[:, 1], zero, s[:, 1], zero, one, zero, -s[:, 1], zero, c[:, 1])
    third = matrix(c[:, 2], -s[:, 2], zero, s[:, 2], c[:, 2], zero, zero, zero, one)
    rotation = first @ second @ third
    linear = rotation * scale_N3[:, None, :]
    offset = (rotation @ translation_N3[:, :, None])[..., 0]
    half = torch.tensor(size, dtype=linear.dtype, device=linear.device) / 2
    linear = linear * half[None, None, :] / half[None, :, None]
    return torch.cat([linear.flip(1).flip(2), (offset / half).flip(1)[..., None]], dim=2)


def at_once(x_NDHW: Tensor, theta: Tensor) -> Tensor:
    """Trilinear, edges replicated: output voxel o shows the input at theta o."""
    grid = torch.stack([_positions(theta, axis, x_NDHW.shape[1:]) for axis in range(3)], dim=-1)
    moved = F.grid_sample(x_NDHW[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved[:, 0]


def by_planes(x_NDHW: Tensor, theta: Tensor) -> Tensor:
    """The same by two-dimensional sampling, which torch vectorises on a CPU; the three-dimensional one is scalar.

    All planes lie below each other in one picture; a second channel is the same picture one plane further down, so that
    one call samples the planes before and behind each position. What is left is to mix the two. The picture is a
    thousand rows high, so that positions are rounded to 1e-4 voxels.
    """
    count, depth, height, width = x_NDHW.shape
    x_NDHW = x_NDHW.contiguous()

    def voxels(axis: int, length: int) -> Tensor:
        return _positions(theta, axis, x_NDHW.shape[1:]).add_(1).mul_(length / 2).sub_(0.5)

    z = voxels(2, depth).clamp_(0, depth - 1)
    plane = z.floor().clamp_(max=depth - 2)
    share = z.sub_(plane)
    y = voxels(1, height).clamp_(0, height - 1).add_(plane, alpha=height)
    rows = (depth - 1) * height
    grid = torch.empty(*y.shape, 2)
    torch.mul(voxels(0, width), 2 / (width - 1), out=grid[..., 0])
    torch.mul(y, 2 / (rows - 1), out=grid[..., 1])
    pictures = x_NDHW.as_strided(
        (count, 2, rows, width), (depth * height * width, height * width, width, 1), x_NDHW.storage_offset()
    )
    both = F.grid_sample(
        pictures, grid.sub_(1).flatten(2, 3), mode="bilinear", padding_mode="border", align_corners=True
    )
    return both[:, 0].lerp_(both[:, 1], share.flatten(2)).view(x_NDHW.shape)


def _positions(theta: Tensor, axis: int, size: torch.Size) -> Tensor:
    """Where each output voxel comes from along an axis (0 for x), [N, D, H, W], in grid_sample's coordinates.

    Three one-dimensional terms, broadcast, instead of a product a voxel.
    """

    def term(column: int, length: int) -> Tensor:
        centres = (torch.arange(length, dtype=theta.dtype, device=theta.device) * 2 + 1) / length - 1
        return theta[:, axis, column, None] * centres

    depth, height, width = size
    in_plane = (term(1, height)[:, :, None] + term(0, width)[:, None]).flatten(1)
    through = term(2, depth) + theta[:, axis, 3, None]
    return (through[:, :, None] + in_plane[:, None]).view(-1, depth, height, width)
