#!/usr/bin/env bash
# Writing a DICOM slice or reading a VTK file with SimpleITK leaves the whole process in the locale C.
#
# Versions: SimpleITK 2.5.7, Python 3.11, Linux.
# Input: a DICOM slice with its ImagePositionPatient, as every slice of a series is written; a legacy VTK file of SimpleITK's own.
# Behaviour: ITK switches the locale to C for these files and does not switch it back. Later and elsewhere in the process,
# Python decodes the output of other programs and text files as ASCII, and fails at the first other character. Slices
# without a position, NIfTI, NRRD and MetaImage leave the locale as it was.
# Output seen:
#   nii.gz: UTF-8
#   nrrd: UTF-8
#   mha: UTF-8
#   DICOM without a position: UTF-8
#   DICOM with a position: ANSI_X3.4-1968
#   VTK read: ANSI_X3.4-1968
#   output of another program: UnicodeDecodeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import locale
import subprocess

import numpy as np
import SimpleITK as sitk


def encoding_after(action):
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    action()
    return locale.getencoding()


def written_and_read(name, position=None):
    image = sitk.GetImageFromArray(np.arange(4096, dtype=np.int16).reshape(1, 64, 64))
    if position:
        image.SetMetaData("0020|0032", position)  # ImagePositionPatient
    sitk.WriteImage(image, name)
    sitk.ReadImage(name)


found = {suffix: encoding_after(lambda: written_and_read(f"scan.{suffix}")) for suffix in ("nii.gz", "nrrd", "mha")}
found["DICOM without a position"] = encoding_after(lambda: written_and_read("a.dcm"))
found["DICOM with a position"] = encoding_after(lambda: written_and_read("b.dcm", "1.5\\2.5\\3"))
found["VTK read"] = encoding_after(lambda: written_and_read("scan.vtk"))
for name, encoding in found.items():
    print(f"{name}: {encoding}")
try:
    text = subprocess.run(["printf", "\\303\\251"], capture_output=True, text=True, check=True).stdout
except UnicodeDecodeError as error:
    text = type(error).__name__
print(f"output of another program: {text}")
assert list(found.values()) == ["UTF-8"] * 4 + ["ANSI_X3.4-1968"] * 2, found
assert text == "UnicodeDecodeError", text
PYTHON
