"""A labelled scan's lungs as one volume on the grid on which its patches are cut: 1 mm, along the same axes.

Made once a scan from the scan itself and committed below `labelled/`; label maps lie beside it, one a task.

Legend: ZYX voxels of the lung volume, M windows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import SimpleITK as sitk

from ctplatform.config.preparation import PrepareConfig
from ctplatform.errors import ScanError
from ctplatform.preparation.sampling import index_from_mm, lattice_box
from ctplatform.registration.affine import affine_from, to_transform, transform_points
from ctplatform.storage.workspace import Workspace
from drasclr.encoder import PATCH_SIZE

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

MARGIN = PATCH_SIZE // 2
"""Voxels around the lungs: a window may be centred on the pleura."""
MIN_ON_LUNGS = 0.5
"""Share of a label map's voxels that must lie on the lungs."""


@dataclass(frozen=True)
class LungVolume:
    """The lungs of a scan.

    Attributes:
        hu_ZYX: int16, in the window of `prepare.hu_window`.
        lungs_ZYX: bool, the platform's own lung mask.
        to_scan_44: voxel index x, y, z -> scan LPS mm.
        affine_44: atlas LPS mm -> scan LPS mm, from the ledger.
    """

    hu_ZYX: np.ndarray
    lungs_ZYX: np.ndarray
    to_scan_44: np.ndarray
    affine_44: np.ndarray

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of a voxel in the scan along z, y, x."""
        x, y, z = np.linalg.norm(self.to_scan_44[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in the scan."""
        return float(abs(np.linalg.det(self.to_scan_44[:3, :3]))) / 1000

    def coordinates(self, atlas: Atlas, centres_M3: np.ndarray) -> np.ndarray:
        """Locations of windows for the conditioned encoder, float32 [M, 3].

        The centre (voxel index z, y, x) goes to mm in the scan, by the inverse affine to mm in the atlas, and there
        to the normalised coordinates, which are linear in the position: between the atlas' locations they are what
        interpolation between the locations' own coordinates gives.
        """
        scan_mm_M3 = transform_points(self.to_scan_44, np.asarray(centres_M3, float)[:, ::-1])
        return atlas.coordinates_at(transform_points(np.linalg.inv(self.affine_44), scan_mm_M3))


def cut_lung_volume(
    image: sitk.Image,
    lungs: sitk.Image,
    affine_44: np.ndarray,
    *,
    config: PrepareConfig,
    spacing_mm: float = 1.0,
) -> LungVolume:
    """Cut the lungs out of a scan, on the grid on which its patches are cut.

    Args:
        image: int16 HU, axes in LPS order.
        lungs: above 0 in the lungs, in the scan's physical space.
        affine_44: atlas LPS mm -> scan LPS mm.
        config: sampling and HU window.
    """
    along_atlas = config.sampling.axes == "atlas"
    frame_44 = affine_44 if along_atlas else affine_from(np.eye(3), np.array(image.GetOrigin()))
    inside_XYZ = np.argwhere(sitk.GetArrayViewFromImage(lungs) > 0)[:, ::-1].astype(float)
    mask_to_mm_44 = np.linalg.inv(index_from_mm(lungs))
    lattice = transform_points(np.linalg.inv(frame_44) @ mask_to_mm_44, inside_XYZ) / spacing_mm
    reach = max(lungs.GetSpacing()) / spacing_mm  # the mask's voxels are larger than their centres
    low_3 = np.floor(lattice.min(0) - reach).astype(int) - MARGIN
    size_3 = np.ceil(lattice.max(0) + reach).astype(int) + MARGIN + 1 - low_3
    to_scan_44 = frame_44 @ affine_from(spacing_mm * np.eye(3), low_3 * spacing_mm)
    to_index_44 = index_from_mm(image) @ to_scan_44
    hu_ZYX = lattice_box(image, to_index_44, size_3, config.sampling.interpolation, config.hu_window)
    soft = _onto(sitk.Cast(lungs > 0, sitk.sitkFloat32), to_scan_44, size_3, sitk.sitkLinear)
    return LungVolume(hu_ZYX, soft > 0.5, to_scan_44, np.asarray(affine_44, float))


def labels_on(volume: LungVolume, labels: sitk.Image) -> np.ndarray:
    """A label map on a lung volume's grid, uint8 [z, y, x]: each voxel takes the nearest voxel's class."""
    size_3 = np.array(volume.hu_ZYX.shape[::-1])
    return _onto(labels, volume.to_scan_44, size_3, sitk.sitkNearestNeighbor)


def check_on_lungs(volume: LungVolume, labels_ZYX: np.ndarray) -> None:
    """Check that a map of the lung lies on the lungs.

    Raises:
        ScanError: it is empty, or most of it lies elsewhere.
    """
    labelled = labels_ZYX > 0
    on_lungs = float(volume.lungs_ZYX[labelled].mean()) if labelled.any() else 0.0
    if on_lungs < MIN_ON_LUNGS:
        raise ScanError(
            f"only {on_lungs:.0%} of the label map's voxels lie on the scan's lungs"
            if labelled.any()
            else "the label map has no labelled voxel near the scan's lungs",
            "Check that it belongs to this scan and keeps its position and orientation",
            code="label-map",
        )


def write_lung_volume(workspace: Workspace, volume: LungVolume, *parts: str) -> None:
    """Commit a volume."""
    geometry = {
        "shape": volume.hu_ZYX.shape,
        "to_scan": volume.to_scan_44.tolist(),
        "affine": volume.affine_44.tolist(),
    }
    lungs = np.packbits(volume.lungs_ZYX).tobytes()
    _write(workspace, {"hu": volume.hu_ZYX.astype("<i2").tobytes(), "lungs": lungs}, geometry, *parts)


def read_lung_volume(workspace: Workspace, *parts: str) -> LungVolume:
    """A committed volume.

    Raises:
        StageError: it is not there.
    """
    data, geometry = _read(workspace, *parts)
    shape = tuple(geometry["shape"])
    lungs = np.unpackbits(np.frombuffer(data["lungs"], np.uint8), count=int(np.prod(shape)))
    hu_ZYX = np.frombuffer(data["hu"], "<i2").reshape(shape).astype(np.int16)
    to_scan_44, affine_44 = np.array(geometry["to_scan"]), np.array(geometry["affine"])
    return LungVolume(hu_ZYX, lungs.reshape(shape).astype(bool), to_scan_44, affine_44)


def write_labels(workspace: Workspace, labels_ZYX: np.ndarray, facts: Mapping[str, Any], *parts: str) -> None:
    """Commit a label map on its lung volume's grid, with facts that are read without the voxels."""
    header = {**facts, "shape": labels_ZYX.shape}
    _write(workspace, {"labels": labels_ZYX.astype(np.uint8).tobytes()}, header, *parts)


def read_labels(workspace: Workspace, *parts: str) -> np.ndarray:
    """A committed label map, uint8 [z, y, x]."""
    data, header = _read(workspace, *parts)
    return np.frombuffer(data["labels"], np.uint8).reshape(header["shape"])


def read_facts(workspace: Workspace, *parts: str) -> dict[str, Any]:
    """The facts that were committed with a label map."""
    return _read(workspace, *parts, columns=["header"])[1]


def _onto(image: sitk.Image, to_scan_44: np.ndarray, size_3: np.ndarray, how: int) -> np.ndarray:
    grid = [int(n) for n in size_3], to_transform(to_scan_44), how
    return sitk.GetArrayFromImage(
        sitk.Resample(image, *grid, (0.0,) * 3, (1.0,) * 3, np.eye(3).ravel().tolist())
    )


def _write(workspace: Workspace, data: Mapping[str, bytes], header: Mapping[str, Any], *parts: str) -> None:
    columns = {"header": [json.dumps(header)], **{name: [value] for name, value in data.items()}}
    workspace.write_table(pa.table(columns), *parts)


def _read(
    workspace: Workspace, *parts: str, columns: list[str] | None = None
) -> tuple[dict[str, bytes], dict[str, Any]]:
    row = workspace.read_table(*parts, columns=columns).to_pylist()[0]
    return row, json.loads(row.pop("header"))
