"""One scan for looking at: CT, lung mask, locations of the atlas and a label map on one grid of the patient's axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.config.preparation import PrepareConfig
from ctplatform.imaging.hounsfield import PADDING_HU

if TYPE_CHECKING:
    from pathlib import Path

    import SimpleITK as sitk
    from numpy.typing import NDArray

    from drasclr.encoder import Encoder

MARGIN_MM = 20.0  # around the lungs


@dataclass(frozen=True)
class ScanView:
    """Voxels in the order z, y, x; x to the patient's left, y to the back, z to the head.

    Attributes:
        name: shown as the title.
        verdict: state and reasons; empty where the scan was not registered.
        spacing_mm: of the grid, the same along each axis.
        origin_mm: LPS mm of the first voxel.
        hu_ZYX: int16.
        mask_ZYX: uint8, 50 in the right lung, 100 in the left one.
        labels_ZYX: uint8, or None without a label map.
        names: value of the label map -> name.
        centres_mm_N3: locations of the atlas, LPS mm; none without an atlas.
        patch_mm: side of a patch.
    """

    name: str
    verdict: str
    spacing_mm: float
    origin_mm: tuple[float, float, float]
    hu_ZYX: NDArray[np.int16]
    mask_ZYX: NDArray[np.uint8]
    labels_ZYX: NDArray[np.uint8] | None
    names: dict[int, str]
    centres_mm_N3: NDArray[np.float64]
    patch_mm: float


def view_scan(
    path: str,
    *,
    name: str,
    model: Encoder | None = None,
    labels: str | None = None,
    series_uid: str = "",
    spacing_mm: float = 1.5,
    mask_file: Path | None = None,
) -> ScanView:
    """Read, mask and, with a model, register a scan; a rejected one is shown, too.

    Args:
        path: volume file or DICOM folder.
        name: shown as the title.
        model: with its atlas, whose locations are shown; its card says how the scan is prepared.
        labels: label map on any grid of the same space.
        series_uid: which series of a DICOM folder; empty: the best one.
        spacing_mm: of the grid.
        mask_file: receives the lung mask on the scan's own voxels, as compressed NIfTI.

    Raises:
        ScanError: the scan or the label map cannot be read, or no lungs are found.
    """
    import SimpleITK as sitk

    from ctplatform.imaging.label_writer import write_nifti
    from ctplatform.imaging.volume import read_volume
    from ctplatform.inference.scan_embedding import ScanEmbedder
    from ctplatform.lungs.fine_mask import OUTSIDE_HU, fine_mask
    from ctplatform.lungs.segmenter import lung_mask
    from ctplatform.preparation.quality import assess, measure
    from ctplatform.preparation.sampling import sample_patches
    from ctplatform.registration.affine_registration import register

    embedder = None if model is None else ScanEmbedder(model, pooling="mean")
    config = PrepareConfig() if embedder is None else embedder.config
    volume = read_volume(path, series_uid=series_uid or None)
    mask = lung_mask(volume.image, config.lungs)
    if mask_file is not None:
        write_nifti(fine_mask(volume.image, mask.labels), path, mask_file)
    centres_mm_N3, verdict, patch_mm = np.empty((0, 3)), "", 0.0
    if embedder is not None:
        registration = register(mask.labels, embedder.template, config.registration)
        patches = sample_patches(
            volume.image,
            registration.affine_44,
            embedder.atlas,
            geometry=config.sampling.geometry,
            axes=config.sampling.axes,
            interpolation=config.sampling.interpolation,
            hu_window=config.hu_window,
        )
        measures = measure(volume, mask, registration, patches, embedder.template)
        found = assess(measures, config.quality, notes=mask.notes)
        verdict = ": ".join(filter(None, (found.state, "; ".join(found.reasons))))
        centres_mm_N3, patch_mm = patches.centres_mm_N3, float(embedder.atlas.patch_size)
    grid = _grid(mask.labels, spacing_mm)

    def on_grid(image: sitk.Image, kind: int, outside: float, pixel: int) -> sitk.Image:
        return sitk.Resample(image, grid, sitk.Transform(), kind, outside, pixel)

    scan = on_grid(volume.image, sitk.sitkLinear, OUTSIDE_HU, sitk.sitkInt16)
    label_image, names = _labels(labels)
    return ScanView(
        name=name,
        verdict=verdict,
        spacing_mm=spacing_mm,
        origin_mm=tuple(grid.GetOrigin()),
        hu_ZYX=np.maximum(sitk.GetArrayFromImage(scan), PADDING_HU),
        mask_ZYX=sitk.GetArrayFromImage(fine_mask(volume.image, mask.labels, on=scan)),
        labels_ZYX=None
        if label_image is None
        else sitk.GetArrayFromImage(on_grid(label_image, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)),
        names=names,
        centres_mm_N3=centres_mm_N3,
        patch_mm=patch_mm,
    )


def _grid(labels: sitk.Image, spacing_mm: float) -> sitk.Image:
    """An empty image around the lungs, with the patient's axes."""
    import SimpleITK as sitk

    lung_ZYX = sitk.GetArrayViewFromImage(labels) > 0
    ends = [np.flatnonzero(lung_ZYX.any(axis=axes))[[0, -1]] for axes in ((0, 1), (0, 2), (1, 2))]
    corners = [
        labels.TransformIndexToPhysicalPoint([int(ends[a][(k >> a) & 1]) for a in range(3)]) for k in range(8)
    ]
    low_3, high_3 = np.min(corners, axis=0) - MARGIN_MM, np.max(corners, axis=0) + MARGIN_MM
    size = np.ceil((high_3 - low_3) / spacing_mm).astype(int) + 1
    grid = sitk.Image([int(n) for n in size], sitk.sitkUInt8)
    grid.SetOrigin([float(v) for v in low_3])
    grid.SetSpacing([spacing_mm] * 3)
    return grid


def _labels(path: str | None) -> tuple[sitk.Image | None, dict[int, str]]:
    """The label map with values 1, 2, ... and their names; of more than 255 values the others are left out."""
    if not path:
        return None, {}
    from ctplatform.imaging.label_map import image_of, read_labels

    stored = read_labels(path)
    values = [value for value in np.unique(stored.volume.values_ZYX) if value != 0][:255]
    numbered_ZYX = np.zeros(stored.volume.values_ZYX.shape, np.uint8)
    for number, value in enumerate(values, 1):
        numbered_ZYX[stored.volume.values_ZYX == value] = number
    names = {
        number: stored.names.get(value) or stored.names.get(int(value)) or f"{value:g}"
        for number, value in enumerate(values, 1)
    }
    return image_of(numbered_ZYX, stored.volume), names
