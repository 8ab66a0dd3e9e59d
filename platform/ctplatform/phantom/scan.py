"""Effects of the scanner on a rendered scene: table, noise, calibration error, field of view, orientation of axes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.phantom import texture
from ctplatform.phantom.drawing import coverage
from ctplatform.phantom.grid import Box, rotation
from ctplatform.phantom.parameters import (
    KERNEL_FILTER,
    KERNEL_SIGMA_MM,
    Kernel,
    Scanner,
    SubjectParameters,
    random_stream,
)


def acquire(hu: np.ndarray, box: Box, parameters: SubjectParameters) -> np.ndarray:
    """The int16 voxels that a scanner stores of noise-free HU; `hu` is changed in place."""
    scanner = parameters.scanner
    _add_table(hu, scanner, box)
    rng = random_stream(parameters.seed, parameters.index, "noise")
    noise = texture.noise(box, scanner=scanner, sigma_mm=KERNEL_SIGMA_MM[scanner.kernel], rng=rng)
    if scanner.filters:
        spread = noise.std()
        reconstruct(hu, box, scanner.kernel)
        reconstruct(noise, box, scanner.kernel)
        noise *= spread / noise.std()
    hu += noise
    hu += np.float32(scanner.offset_hu)
    np.clip(hu, PADDING_HU, 3071, out=hu)
    volume: np.ndarray = np.rint(hu, out=hu).astype(np.int16)
    x, y = box.axis(0), box.axis(1)
    radius = max(np.ptp(x), np.ptp(y)) / 2 + 1
    outside = np.hypot(x[None] - x.mean(), y[:, None] - y.mean()) > radius
    volume[:, outside] = scanner.padding_hu
    return volume


def reconstruct(field: np.ndarray, box: Box, kernel: Kernel) -> None:
    """Filter each slice as a reconstruction kernel does, in place: a Gaussian blur, or an unsharp mask.

    The medium kernel is the reference and changes nothing. Mean values are kept.
    """
    width_mm, amount = KERNEL_FILTER[kernel]
    if amount == 0:
        return
    sigma = [width_mm / float(box.spacing[a]) for a in (1, 0)]
    for slice_YX in field:
        slice_YX += np.float32(amount) * (ndimage.gaussian_filter(slice_YX, sigma) - slice_YX)


def _add_table(hu: np.ndarray, scanner: Scanner, box: Box) -> None:
    """A curved carbon shell filled with foam, below the back; it lies level in the room, the image axes may not."""
    room = rotation(scanner.oblique_deg)
    body_end = np.flatnonzero((hu > -400).any(axis=(0, 2)))
    drop = float(box.axis(1)[body_end[-1]]) + 3.0
    first = int(np.clip((drop - 45 - box.start[1]) / box.spacing[1], 0, box.size[1] - 1))
    part = Box(
        box.start + np.array([0, first * box.spacing[1], 0]), box.spacing, box.size - np.array([0, first, 0])
    )
    x = part.linear(room[0])
    depth = part.linear(room[1]) - (np.float32(drop) - x**2 * np.float32(0.0011))
    edge = float(box.spacing.mean())
    width = coverage(200 - np.abs(x), edge)
    view = hu[:, first:]
    outside = view < -500
    foam = coverage(8.0 - np.abs(depth - 9), edge) * width * outside
    view += foam * (np.float32(-930) - view)
    for at in (1.0, 17.0):
        skin = coverage(0.8 - np.abs(depth - at), edge) * width * outside
        view += skin * (np.float32(-250) - view)


def to_image(array: np.ndarray, box: Box, scanner: Scanner) -> sitk.Image:
    """An array as an image with the scanner's order and direction of axes; every voxel keeps its place in space."""
    room = rotation(scanner.oblique_deg)
    axes, flips = np.array(scanner.axes), np.array(scanner.flips)
    stored = array.transpose([2 - a for a in axes[::-1]])
    stored = np.flip(stored, tuple(int(2 - i) for i in np.flatnonzero(flips)))
    first = np.where(flips, box.size[axes] - 1, 0)
    start = box.start.copy()
    start[axes] += first * box.spacing[axes]
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing(tuple(float(s) for s in box.spacing[axes]))
    image.SetDirection(tuple((room[:, axes] * np.where(flips, -1, 1)).ravel()))
    image.SetOrigin(tuple(float(v) for v in room @ start + np.array(scanner.shift_mm)))
    return image
