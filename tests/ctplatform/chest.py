"""An analytic pair of lungs: inside or outside is known at every point, so every affine image of it is exact."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

RIGHT, LEFT = 50, 100


def lung_label(points_N3: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Label at LPS points (mm): two unequal half-domes around a heart on the left, on a sloping diaphragm."""
    x, y, z = np.moveaxis(points_N3, -1, 0)

    def body(middle: float, wide: float, deep: float, tall: float) -> NDArray[np.bool_]:
        return ((x - middle) / wide) ** 2 + ((y - 5) / deep) ** 2 + (z / tall) ** 2 < 1

    heart = ((x - 22) / 48) ** 2 + ((y + 35) / 45) ** 2 + ((z + 40) / 55) ** 2 < 1
    dome = z < -75 - 0.25 * y - 0.0035 * ((x + 70) ** 2 + y**2) * np.sign(-x) * 0.4
    right = body(-72, 58, 88, 125) & ~dome & ~heart
    left = body(72, 52, 92, 118) & ~dome & ~heart
    return (right * RIGHT + left * LEFT).astype(np.uint8)


def lung_image(
    affine_44: NDArray[np.floating] | None = None,
    *,
    spacing: float | tuple[float, float, float] = 2.0,
    direction_33: NDArray[np.floating] | None = None,
    cut: float = 0.0,
) -> sitk.Image:
    """The lungs moved by an affine (mm to mm), on a grid with any axes.

    Args:
        cut: share of the height that the scan leaves out at the bottom.
    """
    affine_44 = np.eye(4) if affine_44 is None else affine_44
    direction_33 = np.eye(3) if direction_33 is None else direction_33
    spacing_3 = np.broadcast_to(np.asarray(spacing, float), 3)
    corners = np.array(np.meshgrid((-130, 125), (-90, 100), (-125, 126), indexing="ij")).reshape(3, -1).T
    moved = (corners @ affine_44[:3, :3].T + affine_44[:3, 3]) @ direction_33
    low, high = moved.min(axis=0) - 10, moved.max(axis=0) + 10
    low[2] += cut * (high[2] - low[2])
    size = np.ceil((high - low) / spacing_3).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij"), axis=-1)[..., ::-1]
    points = (low + grid * spacing_3) @ direction_33.T
    inverse = np.linalg.inv(affine_44)
    image = sitk.GetImageFromArray(lung_label(points @ inverse[:3, :3].T + inverse[:3, 3]))
    image.SetSpacing(spacing_3.tolist())
    image.SetOrigin((direction_33 @ low).tolist())
    image.SetDirection(direction_33.ravel().tolist())
    return image


def random_affine(
    rng: np.random.Generator, *, degrees: float = 30, scale: float = 0.3, shift: float = 30
) -> NDArray[np.float64]:
    """A rotation about a random axis, a scaling of each axis and a shift, each up to the given size."""
    axis = rng.normal(size=3)
    linear = rotation(axis, rng.uniform(-degrees, degrees)) @ np.diag(
        np.exp(rng.uniform(math.log(1 - scale), math.log(1 + scale), 3))
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, rng.uniform(-shift, shift, 3)
    return affine


def rotation(axis_3: NDArray[np.floating], degrees: float) -> NDArray[np.float64]:
    """Rotation matrix about an axis."""
    x, y, z = axis_3 / np.linalg.norm(axis_3)
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew
