"""Phantom chests of kinds that are hard to segment, each with its true lungs.

Each kind changes a healthy phantom. True is what a reader would outline as aerated lung: fluid, collapsed lung, free
air in the pleura and gas of the abdomen are none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from ctplatform.config.recipe import PhantomConfig
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.phantom import make_subject

SPACING_MM = 2.2


@dataclass
class Chest:
    """HU and lung labels [z, y, x] of a phantom, to be changed in place; axes LPS."""

    image: sitk.Image
    hu: NDArray[np.int16]
    lungs: NDArray[np.uint8]

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(0)

    @property
    def grid(self) -> list[NDArray[np.float64]]:
        """z, y, x of each voxel, mm from the first one."""
        x_mm, y_mm, z_mm = self.image.GetSpacing()
        steps = [np.arange(n) * s for n, s in zip(self.hu.shape, (z_mm, y_mm, x_mm), strict=True)]
        return list(np.meshgrid(*steps, indexing="ij", sparse=True))

    def fill(self, where: NDArray[np.bool_], hu: float, noise: float = 15.0) -> None:
        """Set voxels to a value with noise; they are no lung any more."""
        self.hu[where] = self.rng.normal(hu, noise, int(where.sum()))
        self.lungs[where] = 0

    def extent(self, label: int) -> list[tuple[float, float]]:
        """First and last place of a lung along z, y, x, mm."""
        index = np.argwhere(self.lungs == label)
        spacing = np.array(self.image.GetSpacing()[::-1])
        return [tuple(v) for v in np.stack([index.min(axis=0), index.max(axis=0)], axis=1) * spacing[:, None]]


@lru_cache(maxsize=4)
def _healthy(number: int) -> tuple[sitk.Image, sitk.Image]:
    made = make_subject(number, config=PhantomConfig.model_validate({"spacing_mm": SPACING_MM}))
    return sitk.DICOMOrient(made.image, "LPS"), sitk.DICOMOrient(made.lungs, "LPS")


def healthy(number: int) -> Chest:
    image, lungs = _healthy(number)
    return Chest(image, sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(lungs))


def gas_beside_the_diaphragm(chest: Chest, hu: float = -962) -> None:
    """Stomach gas under the left dome, with no wall between that a coarse voxel would show."""
    _, (y0, y1), (x0, x1) = chest.extent(LEFT)
    z, y, x = chest.grid
    column = (chest.lungs == LEFT).argmax(axis=0)
    row, col = (
        round((a + b) / 2 / s)
        for (a, b), s in zip(((y0, y1), (x0, x1)), chest.image.GetSpacing()[1::-1], strict=True)
    )
    top = column[row, col] * chest.image.GetSpacing()[2] - 1.5
    y_mm, x_mm = row * chest.image.GetSpacing()[1], col * chest.image.GetSpacing()[0]
    gas = ((z - top + 34) / 34) ** 2 + ((y - y_mm) / 40) ** 2 + ((x - x_mm) / 36) ** 2 < 1
    gas &= chest.lungs == 0
    chest.fill(gas, hu, 18)


def split_off_apex(chest: Chest) -> None:
    """An apex of some 50 ml that a band of tissue separates from the rest of the right lung."""
    right = chest.lungs == RIGHT
    z_mm = chest.image.GetSpacing()[2]
    volumes = right.sum(axis=(1, 2)) * np.prod(chest.image.GetSpacing()) / 1000
    above = np.cumsum(volumes[::-1])[::-1]
    start = int(np.argmax(above < 50))
    band = right.copy()
    band[: start - round(12 / z_mm)] = False
    band[start:] = False
    chest.fill(band, 35)


def collapse_with_shift(chest: Chest) -> None:
    """The left upper lobe without air, and heart and mediastinum drawn to the left."""
    left = chest.lungs == LEFT
    (z0, z1), _, _ = chest.extent(LEFT)
    z, _, _ = chest.grid
    lobe = left & (z > z0 + 0.62 * (z1 - z0))
    chest.fill(lobe, 40)
    _shift(chest, 14.0)


def pneumonectomy(chest: Chest) -> None:
    """The left lung removed: fluid in its place, and the mediastinum drawn there."""
    chest.fill(chest.lungs == LEFT, 15)
    _shift(chest, 18.0)


def _shift(chest: Chest, mm: float) -> None:
    """Move what is near the midline to the left, less towards the ribs."""
    columns = np.flatnonzero((chest.hu > -300).any(axis=(0, 1)))
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0]) / 2
    index = np.arange(chest.hu.shape[2])
    move = mm / chest.image.GetSpacing()[0] * np.exp(-(((index - middle) / (0.45 * half)) ** 2))
    source = np.clip(index - move, 0, len(index) - 1)
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, len(index) - 1)
    weight = source - low
    chest.hu = np.rint(chest.hu[..., low] * (1 - weight) + chest.hu[..., high] * weight).astype(np.int16)
    chest.lungs = chest.lungs[..., np.rint(source).astype(int)]


def effusion(chest: Chest) -> None:
    """Fluid behind and below in the right pleura: the lowest and hindmost third of the lung's place."""
    (z0, z1), (y0, y1), _ = chest.extent(RIGHT)
    z, y, _ = chest.grid
    level = (y - y0) / (y1 - y0) - 0.9 * (z - z0) / (z1 - z0)
    chest.fill((chest.lungs == RIGHT) & (level > 0.3), 8)


def pneumothorax(chest: Chest) -> None:
    """Free air in front of the right lung of a patient on the back; a thin line of pleura is the lung's edge."""
    _, (y0, y1), _ = chest.extent(RIGHT)
    _, y, _ = chest.grid
    right = chest.lungs == RIGHT
    front = right & (y < y0 + 0.3 * (y1 - y0))
    line = right & ~front & ndimage.binary_dilation(front, iterations=1)
    chest.fill(front, -1000, 12)
    chest.hu[line] = chest.rng.normal(-250, 60, int(line.sum()))


def expiration(chest: Chest) -> None:
    """Lungs at residual volume: half the air, a fifth less height."""
    lung = chest.lungs > 0
    chest.hu[lung] = np.clip(chest.hu[lung] + 190, -800, 3071)
    spacing = chest.image.GetSpacing()
    chest.image = sitk.Image(chest.image)
    chest.image.SetSpacing((spacing[0], spacing[1], 0.75 * spacing[2]))


def child(chest: Chest) -> None:
    """A chest of some five years: 0.62 of an adult's lengths."""
    chest.image = sitk.Image(chest.image)
    chest.image.SetSpacing([0.62 * s for s in chest.image.GetSpacing()])


KINDS: dict[str, Callable[[Chest], None]] = {
    "healthy": lambda chest: None,
    "gas beside the diaphragm": gas_beside_the_diaphragm,
    "an apex split off": split_off_apex,
    "collapse with shift": collapse_with_shift,
    "pneumonectomy": pneumonectomy,
    "effusion": effusion,
    "pneumothorax": pneumothorax,
    "expiration": expiration,
    "child": child,
}


def diseased(kind: str, number: int) -> tuple[sitk.Image, sitk.Image]:
    """A phantom of a kind: int16 HU, and its true lungs (50 right, 100 left) on the same grid."""
    chest = healthy(number)
    KINDS[kind](chest)
    result = []
    for values in (np.clip(chest.hu, -1024, 3071).astype(np.int16), chest.lungs):
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(chest.image)
        result.append(image)
    return result[0], result[1]
