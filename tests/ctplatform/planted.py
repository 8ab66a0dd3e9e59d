"""Identities planted in every text of a DICOM header, and what must not be found anywhere else."""

from __future__ import annotations

import json

from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

SECRET = "ZQXJ"  # in every planted text, and in nothing else
TEXTS = {
    "AE": SECRET,
    "AS": "042Y",
    "CS": SECRET,
    "LO": f"{SECRET}^LONG",
    "LT": f"{SECRET} text",
    "PN": f"{SECRET}^JANE^M",
    "SH": SECRET,
    "ST": f"{SECRET} text",
    "UC": SECRET,
    "UR": f"https://{SECRET}.example",
    "UT": f"{SECRET} text",
    "DA": "19410203",
    "DT": "19410203040506",
    "TM": "194102",
    "IS": "19410203",
}
NEEDED = {  # without these a file is no CT image, or not this one
    "AcquisitionNumber",
    "ImageType",
    "InstanceNumber",
    "Modality",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "SeriesNumber",
}
FORBIDDEN = (SECRET, "JANE", "19410203", "194102", "042Y")


def planted() -> dict[str, object]:
    """A value for every text-like element of the DICOM dictionary, and for one in a sequence."""
    header: dict[str, object] = {}
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if vr in TEXTS and keyword and keyword not in NEEDED and 0x0008 <= group < 0x7FE0 and group % 2 == 0:
            header[keyword] = TEXTS[vr]
    other = Dataset()
    other.PatientID = SECRET
    header["OtherPatientIDsSequence"] = Sequence([other])
    header["ImageType"] = ["ORIGINAL", "PRIMARY", "AXIAL", SECRET]
    header["GantryDetectorTilt"] = 7
    return header


def assert_clean(*values: object) -> None:
    for value in values:
        if isinstance(value, str):
            text = value
        elif isinstance(value, bytes):
            text = value.decode("latin-1")
        else:
            text = json.dumps(value, default=str)
        for secret in FORBIDDEN:
            assert secret.lower() not in text.lower()
