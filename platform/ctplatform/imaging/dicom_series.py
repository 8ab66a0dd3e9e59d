"""Pixels of a DICOM series in HU.

Last of four steps, after `dicom_headers` (files to series), `dicom_uniformity` and `dicom_geometry` (slices to a grid).
Plain pixels are read from the files as they are; all others with SimpleITK (GDCM), and with pydicom where GDCM refuses
or changes them.

Errors name positions in mm and counts, never file names or header texts, which may name a patient.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_frames import FrameReader
from ctplatform.imaging.dicom_geometry import SeriesGeometry
from ctplatform.imaging.dicom_headers import Slice, quiet_pydicom
from ctplatform.imaging.dicom_uniformity import check_rescale_steps
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.imaging.image_buffer import empty_image
from ctplatform.imaging.limits import check_voxels
from ctplatform.imaging.volume_checks import truncated_slice

SLICES_AT_A_TIME = 64
"""Slices decoded together: the decoder holds 4 bytes a voxel."""

_NUMPY_TYPES = {sitk.sitkInt16: np.int16, sitk.sitkInt32: np.int32, sitk.sitkFloat32: np.float32}


def read_pixels(geometry: SeriesGeometry) -> tuple[NDArray[Any], sitk.Image | None, list[str]]:
    """Pixels of a series in HU, [z, y, x]: int16, or int32 or float32 where int16 does not hold them; and notes.

    Between them, the image whose memory the pixels are, where they are int16.

    Raises:
        ScanError: truncated or unreadable pixels, mixed-rescale, too-large.
    """
    shape = (len(geometry.slices), *geometry.slices[0].shape)
    check_voxels(shape)
    pixel_type = _pixel_type(geometry.slices)
    owner: sitk.Image | None
    hu_ZYX: NDArray[Any]
    owner, hu_ZYX = empty_image(shape)
    padded = 0
    # Links with neutral names: the file names that the reader writes to its log cannot name a person.
    with tempfile.TemporaryDirectory(prefix="series-") as folder:
        for start in range(0, shape[0], SLICES_AT_A_TIME):
            stop = min(start + SLICES_AT_A_TIME, shape[0])
            encoded = [k for k in range(start, stop) if not _read_plain(geometry.slices[k], hu_ZYX[k])]
            files = []
            for k in encoded:
                link = Path(folder) / f"{k:05d}.dcm"
                link.symlink_to(geometry.slices[k].file.absolute())
                files.append(str(link))
            if encoded:
                decoded, _owner = _decode(files, [geometry.slices[k] for k in encoded], pixel_type)
                part_ZYX = decoded.reshape(-1, *shape[1:])
                if part_ZYX.dtype.kind == "f":
                    hu_ZYX, owner = hu_ZYX.astype(np.float32, copy=False), None
                elif hu_ZYX.dtype == np.int16 and (part_ZYX.min() < -32768 or part_ZYX.max() > 32767):
                    hu_ZYX, owner = hu_ZYX.astype(np.int32), None
                hu_ZYX[encoded] = part_ZYX
            for header, slice_YX in zip(geometry.slices[start:stop], hu_ZYX[start:stop]):
                padded += _fill_padding(slice_YX, header)
    check_rescale_steps(hu_ZYX, geometry.slices)
    share = padded / hu_ZYX.size
    return (
        hu_ZYX,
        owner,
        [
            f"padding: {share:.1%} of the voxels hold the PixelPaddingValue of the header; set to {PADDING_HU} HU"
        ]
        if share > 0.001
        else [],
    )


def _read_plain(header: Slice, hu_YX: NDArray[Any]) -> bool:
    """Read a slice of 16-bit numbers straight from its file, in HU; False, with any content, where that is not enough.

    That is wherever a decoder would do more than add the intercept: pixels that are compressed, of another byte order,
    size or number than the header says, with bits beside the stored ones; or HU that int16 does not hold.
    """
    slope, intercept = header.slope_intercept
    size = 2 * header.shape[0] * header.shape[1]
    plain = header.bits_allocated == 16 and header.high_bit == header.bits_stored - 1 <= 15
    plain = plain and header.samples == header.frames == 1 and _is_plain(header) and not header.compressed
    plain = plain and header.pixel_offset >= 0 and header.pixel_bytes == size
    if not (plain and slope == 1 and intercept.is_integer() and hu_YX.dtype == np.int16):
        return False
    with header.file.open("rb", buffering=0) as stream:
        stream.seek(header.pixel_offset)
        if stream.readinto(hu_YX.reshape(-1).view(np.uint8).data) != size:
            return False
    stored_YX = hu_YX.view(np.int16 if header.signed else np.uint16)
    low, high = int(stored_YX.min()), int(stored_YX.max())
    bits = header.bits_stored
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if header.signed else (0, (1 << bits) - 1)
    if low < least or high > most or low + intercept < -32768 or high + intercept > 32767:
        return False
    # Modulo 2^16, like the sum of unsigned numbers in it.
    hu_YX += np.array(int(intercept) & 0xFFFF, np.uint16).astype(np.int16)
    return True


def _pixel_type(slices: Sequence[Slice]) -> int:
    """SimpleITK type that holds the values of every slice, whatever the type of the first."""
    if not all(value.is_integer() for s in slices for value in s.slope_intercept):
        return int(sitk.sitkFloat32)
    low = min(s.hu_range[0] for s in slices)
    high = max(s.hu_range[1] for s in slices)
    for kind, name in ((np.int16, sitk.sitkInt16), (np.int32, sitk.sitkInt32)):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return int(name)
    return int(sitk.sitkFloat32)


def _decode(
    files: Sequence[str], slices: Sequence[Slice], pixel_type: int
) -> tuple[NDArray[Any], sitk.Image | None]:
    """Pixels in HU; and the image that owns their memory, None where they own it themselves."""
    plain = [_is_plain(s) for s in slices]
    if all(plain):
        try:
            image = _read_itk(files, pixel_type)
            return sitk.GetArrayViewFromImage(image), image
        except RuntimeError:
            pass
    arrays = []
    frames = FrameReader()
    for file, header, itk_reads in zip(files, slices, plain):
        try:
            if itk_reads:
                arrays.append(sitk.GetArrayFromImage(_read_itk([file], pixel_type))[0])
                continue
        except RuntimeError:  # GDCM refuses some compressed series that pydicom decodes
            pass
        try:
            with quiet_pydicom():
                stored_YX = frames.stored(file if header.frame is None else header.file, header.frame)
            slope, intercept = header.slope_intercept
            arrays.append((stored_YX * slope + intercept).astype(_NUMPY_TYPES[pixel_type]))
        except ScanError:
            raise
        except Exception:  # pydicom and its decoders raise many kinds
            raise _undecodable(header) from None
    return np.stack(arrays), None


def _is_plain(header: Slice) -> bool:
    """Whether GDCM returns slope x stored value + intercept.

    ITK's reader inverts MONOCHROME1 before it rescales, although the photometric interpretation is a matter of display
    alone; the length of deflated pixels is not known before they are unpacked; and of a multi-frame file it returns all
    frames.
    """
    return header.photometric != "MONOCHROME1" and not header.deflated and header.frame is None


def _read_itk(files: Sequence[str], pixel_type: int) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.SetNumberOfWorkUnits(1)  # a scan is one task, on one core
    reader.SetOutputPixelType(pixel_type)
    image: sitk.Image = reader.Execute()
    return image


def _fill_padding(slice_YX: NDArray[Any], header: Slice) -> int:
    """Set the padding around a slice to `PADDING_HU`, in place; number of voxels that were changed.

    Padding below it is left to the conversion to HU. Above it, as the value may also occur inside of the body, only
    what is connected with the border of the slice counts.
    """
    if not header.padding:
        return 0
    slope, intercept = header.slope_intercept
    low, high = sorted(value * slope + intercept for value in header.padding)
    if high <= PADDING_HU:
        return 0
    border = np.concatenate([slice_YX[0], slice_YX[-1], slice_YX[:, 0], slice_YX[:, -1]])
    if not ((border >= low) & (border <= high)).any():
        return 0
    from scipy import ndimage

    parts_YX, _ = ndimage.label((slice_YX >= low) & (slice_YX <= high))
    border = np.concatenate([parts_YX[0], parts_YX[-1], parts_YX[:, 0], parts_YX[:, -1]])
    padding_YX = np.isin(parts_YX, np.unique(border[border > 0]))
    slice_YX[padding_YX] = PADDING_HU
    return int(padding_YX.sum())


def _undecodable(header: Slice) -> ScanError:
    if not header.compressed:  # uncompressed pixels can only be too short
        return truncated_slice(header.position)
    return ScanError(
        f"the pixels of the slice at {header.position[2]:.1f} mm cannot be decoded",
        "Export the series again, without compression, or convert it to NIfTI (e.g. with dcm2niix)",
        code="unreadable",
    )
