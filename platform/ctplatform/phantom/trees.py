"""Vessel and airway trees that fill a lung; every branch supplies half of its parent's territory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tree:
    """Segments of a binary tree, level by level; mm in the scan frame."""

    start_N3: np.ndarray
    end_N3: np.ndarray
    radius_N: np.ndarray
    level_N: np.ndarray


def grow(
    root: np.ndarray,
    territory_N3: np.ndarray,
    *,
    levels: int,
    radius: float,
    rng: np.random.Generator,
    step: float = 0.40,
    taper: float = 0.785,
) -> Tree:
    """Grow a tree from `root` into a cloud of points.

    At each level every territory is halved, and a branch runs part of the way (`step`)
    towards each half's centre. Radii shrink by `taper` a level (Murray's law: 2^(-1/3) = 0.79).

    Args:
        root: where the tree starts, mm in the scan frame.
        territory_N3: points that fill the lung; a power of two of them is used.
        radius: of the first branches, mm.

    Raises:
        ValueError: fewer than 2^levels points.
    """
    count = 2 ** (len(territory_N3).bit_length() - 1)
    if count < 2**levels:
        raise ValueError(f"a tree of {levels} levels needs {2**levels} points, got {len(territory_N3)}")
    groups = rng.permutation(territory_N3)[None, :count]
    node = np.asarray(root, float)[None]
    starts, ends, radii, ranks = [], [], [], []
    for level in range(levels):
        groups = _halve(groups, node)
        parent = np.repeat(node, 2, axis=0)
        target = groups.mean(axis=1)
        reach = step * rng.uniform(0.8, 1.2, (len(parent), 1))
        bend = rng.normal(0, 0.06, parent.shape) * np.linalg.norm(target - parent, axis=1, keepdims=True)
        node = parent + reach * (target - parent) + reach * bend
        starts.append(parent)
        ends.append(node)
        radii.append(radius * taper**level * rng.uniform(0.85, 1.15, len(node)))
        ranks.append(np.full(len(node), level))
    return Tree(np.concatenate(starts), np.concatenate(ends), np.concatenate(radii), np.concatenate(ranks))


def _halve(groups_GN3: np.ndarray, node_G3: np.ndarray) -> np.ndarray:
    """Split every group across its longest axis; the axis away from the branch has half weight: branches fan out."""
    centred = groups_GN3 - groups_GN3.mean(axis=1, keepdims=True)
    away = groups_GN3.mean(axis=1) - node_G3
    away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    along = np.einsum("gnc,gc->gn", centred, away)
    centred = centred - 0.5 * along[..., None] * away[:, None]
    _, axes = np.linalg.eigh(np.einsum("gni,gnj->gij", centred, centred))
    order = np.einsum("gnc,gc->gn", centred, axes[:, :, 2]).argsort(axis=1)
    return np.take_along_axis(groups_GN3, order[..., None], axis=1).reshape(2 * len(groups_GN3), -1, 3)


def points_along(
    tree: Tree, keep_N: np.ndarray, *, spacing: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points along the kept segments, `spacing` apart, and the vessel volume (mm^3) of each."""
    start = tree.start_N3[keep_N]
    delta = tree.end_N3[keep_N] - start
    length = np.linalg.norm(delta, axis=1)
    number = np.maximum(np.ceil(length / spacing).astype(int), 1)
    which = np.repeat(np.arange(len(number)), number)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
    t = (offset + rng.random(len(which))) / number[which]
    points = start[which] + t[:, None] * delta[which]
    volume = np.pi * tree.radius_N[keep_N][which] ** 2 * length[which] / number[which]
    return points, volume
