"""Label maps written for others to read: NIfTI on the voxels of the scan's own file, DICOM SEG on its slices.

Sources: NIfTI-1 (nifti.nimh.nih.gov); DICOM PS3.3 A.51 and C.8.20 (Segmentation), by highdicom
(Bridge et al., J. Digit. Imaging 2022, doi:10.1007/s10278-022-00683-y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import PlatformError, ScanError
from ctplatform.imaging.dicom_geometry import series_geometry
from ctplatform.imaging.dicom_headers import quiet_pydicom
from ctplatform.imaging.dicom_study import dicom_files, find_series, series_of
from ctplatform.imaging.files import folders_of, is_archive, local_copy, unpacked, volume_suffix

if TYPE_CHECKING:
    import pydicom

    from ctplatform.imaging.dicom_headers import Slice

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCHEME = "99DRASCLR"
"""Coding scheme of classes: labels of one's own have no code in SNOMED CT."""


_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""Elements of patient and study that a segmentation repeats, and that anonymised series may lack (type 2)."""


def is_dicom(path: str) -> bool:
    """Whether a scan is a DICOM series, judged by its name: no volume file, and no archive of one."""
    return not volume_suffix(Path(folders_of(path)[0].partition("?")[0]))


def write_nifti(labels: sitk.Image, path: str, output: Path) -> None:
    """Write a label map as compressed NIfTI.

    Args:
        labels: on the scan's grid, axes in LPS order.
        path: of the scan. If that is a NIfTI file, the map gets its axes and affine, so that voxel i, j, k is the same
            in both; else it keeps LPS axes in the scan's physical space.
        output: file to write, .nii.gz.
    """
    import nibabel as nib
    from nibabel import orientations

    voxels_XYZ = sitk.GetArrayFromImage(labels).transpose(2, 1, 0)
    affine_44 = np.eye(4)
    direction_33 = np.array(labels.GetDirection()).reshape(3, 3)
    affine_44[:3, :3] = direction_33 * np.array(labels.GetSpacing())
    affine_44[:3, 3] = labels.GetOrigin()
    affine_44 = RAS @ affine_44
    stored = _stored_grid(path)
    if stored is not None:
        shape, own_44 = stored
        turn = orientations.ornt_transform(
            orientations.io_orientation(affine_44), orientations.io_orientation(own_44)
        )
        turned_44 = affine_44 @ orientations.inv_ornt_aff(turn, voxels_XYZ.shape)
        if np.allclose(turned_44, own_44, atol=1e-2):
            voxels_XYZ = orientations.apply_orientation(voxels_XYZ, turn)
            affine_44 = own_44 if voxels_XYZ.shape == shape else turned_44
    image = nib.Nifti1Image(np.ascontiguousarray(voxels_XYZ), affine_44)
    image.header.set_xyzt_units("mm")
    output.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, output)


def write_segmentation(
    labels: sitk.Image,
    classes: Mapping[str, int],
    path: str,
    output: Path,
    *,
    series_uid: str = "",
    title: str,
    software: str,
) -> None:
    """Write a label map as a binary DICOM Segmentation on the slices of the source series, which it refers to.

    Of a multi-frame image it refers to each frame by its number.

    Args:
        labels: in the series' physical space, on any grid.
        classes: class -> its value.
        path: of the scan: DICOM folder, file or archive.
        output: file to write, .dcm.
        series_uid: which series of a folder; empty: as `read_volume` chooses.
        title: of the segmentation.
        software: version that made it.

    Raises:
        PlatformError: highdicom is not installed.
        ScanError: the series is of several multi-frame files, or lacks what a segmentation refers to.
    """
    try:
        import highdicom as hd
        from highdicom.content import AlgorithmIdentificationSequence
        from pydicom.sr.codedict import codes
        from pydicom.sr.coding import Code
    except ImportError:
        raise PlatformError(
            "DICOM SEG is written by highdicom, which is not installed",
            "pip install 'drasclr[seg]'",
            code="extra",
        ) from None
    with _source(path, series_uid) as (headers, planes):
        for header in headers:
            for name in _MAY_BE_EMPTY:
                if name not in header:
                    setattr(header, name, "")
        shape = int(headers[0].Rows), int(headers[0].Columns)
        frames = np.stack(
            [
                np.zeros(shape, np.uint8) if plane is None else _on_slice(labels, plane, shape)
                for plane in planes
            ]
        )
        numbers = np.zeros(frames.shape, np.uint8)
        for number, value in enumerate(classes.values(), 1):
            numbers[frames == value] = number
        algorithm = AlgorithmIdentificationSequence(
            name="drasclr", version=software, family=codes.DCM.ArtificialIntelligence
        )
        segments = [
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=name,
                segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
                segmented_property_type=Code(name[:16], SCHEME, name[:64]),
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
            )
            for number, name in enumerate(classes, 1)
        ]
        with quiet_pydicom():
            try:
                segmentation = hd.seg.Segmentation(
                    source_images=headers,
                    pixel_array=numbers,
                    segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                    segment_descriptions=segments,
                    series_instance_uid=hd.UID(),
                    series_number=300,
                    sop_instance_uid=hd.UID(),
                    instance_number=1,
                    manufacturer="drasclr",
                    manufacturer_model_name="drasclr predict",
                    software_versions=software,
                    device_serial_number="0",
                    series_description=title[:64],
                    content_description=title[:64],
                )
            except (AttributeError, ValueError, TypeError) as error:
                raise ScanError(
                    f"no DICOM SEG could refer to the series: {type(error).__name__}",
                    "Use the NIfTI file, or complete the headers of the series",
                    code="segmentation",
                ) from error
            output.parent.mkdir(parents=True, exist_ok=True)
            segmentation.save_as(output)


def _stored_grid(path: str) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Shape and affine (RAS) of a NIfTI file; None for another format."""
    import nibabel as nib

    name = path.partition("?")[0].lower()
    if not name.endswith((".nii", ".nii.gz")):
        return None
    with local_copy(path) as local:
        image: Any = nib.load(local)
        return tuple(int(n) for n in image.shape[:3]), np.asarray(image.affine, float)


@contextlib.contextmanager
def _source(path: str, series_uid: str) -> Iterator[tuple[Sequence[pydicom.Dataset], Sequence[Slice | None]]]:
    """Headers of the images of a series, and the plane of each image, or of each frame of the one multi-frame image.

    None is a frame that is no slice of the volume: of another stack, for example.
    """
    import pydicom

    with contextlib.ExitStack() as scope:
        places = [scope.enter_context(local_copy(place)) for place in folders_of(path)]
        scope.enter_context(quiet_pydicom())
        if is_archive(places[0]) and places[0].is_file():
            files, uid = scope.enter_context(unpacked(places[0])), series_uid or None
        else:
            files, uid = dicom_files(places), series_uid or series_of(places[0])
        series, _ = find_series(files, uid)
        slices = series_geometry(series).slices
        files = list(dict.fromkeys(one.file for one in slices))
        headers = [pydicom.dcmread(file, force=True, stop_before_pixels=True) for file in files]
        if slices[0].frame is None:
            yield headers, slices
        elif len(files) == 1:
            of_frame = {one.frame: one for one in slices}
            yield headers, [of_frame.get(k) for k in range(int(headers[0].NumberOfFrames))]
        else:
            raise ScanError(
                "the source is of several multi-frame files, for which no DICOM SEG is written",
                "Use the NIfTI file",
                code="segmentation",
            )


def _on_slice(labels: sitk.Image, plane: Slice, shape: tuple[int, int]) -> np.ndarray:
    """A label map on the pixels of one slice, [rows, columns]; nearest voxel, 0 outside."""
    row_3, column_3 = np.array(plane.orientation, float).reshape(2, 3)
    direction_33 = np.stack([row_3, column_3, np.cross(row_3, column_3)], axis=1)
    between_rows, between_columns = plane.pixel_spacing
    resample = sitk.ResampleImageFilter()
    resample.SetSize([shape[1], shape[0], 1])
    resample.SetOutputSpacing([between_columns, between_rows, 1.0])
    resample.SetOutputOrigin(list(plane.position))
    resample.SetOutputDirection(direction_33.ravel().tolist())
    resample.SetInterpolator(sitk.sitkNearestNeighbor)
    return np.asarray(sitk.GetArrayFromImage(resample.Execute(labels))[0])
