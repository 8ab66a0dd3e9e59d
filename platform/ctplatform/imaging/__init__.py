"""CT scans and label maps read from DICOM, NIfTI, NRRD and MetaImage into HU, mm and LPS; DICOM series written.

`volume` has the order of reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.imaging.dicom_writer import write_dicom_series
    from ctplatform.imaging.hounsfield import AIR_HU, PADDING_HU
    from ctplatform.imaging.label_map import read_label_map
    from ctplatform.imaging.volume import Volume, content_hash, read_volume

__all__ = [
    "AIR_HU",
    "PADDING_HU",
    "Volume",
    "content_hash",
    "read_label_map",
    "read_volume",
    "write_dicom_series",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "AIR_HU": "hounsfield",
        "PADDING_HU": "hounsfield",
        "Volume": "volume",
        "content_hash": "volume",
        "read_label_map": "label_map",
        "read_volume": "volume",
        "write_dicom_series": "dicom_writer",
    },
)
