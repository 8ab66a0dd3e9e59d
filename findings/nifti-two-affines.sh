#!/usr/bin/env bash
# SimpleITK and nibabel place one NIfTI file at two places.
#
# Versions: SimpleITK 2.5.7, nibabel 5.4.2, Python 3.11.
# Input: a NIfTI-1 file with both matrices set, as registration tools write it: the qform is the scanner's (code 1), the
# sform the aligned or template space (code 2 to 4). Both are valid, and differ.
# Behaviour: nibabel takes the sform whenever its code is above 0. SimpleITK takes it for code 1 only, and the qform
# otherwise. A mask made with one of them lies elsewhere for the other, without a word.
# Output seen:
#   sform code 1: SimpleITK (60, 80, 10), nibabel (60, 80, 10)
#   sform code 2: SimpleITK (30, 40, 50), nibabel (60, 80, 10)
#   sform code 3: SimpleITK (30, 40, 50), nibabel (60, 80, 10)
#   sform code 4: SimpleITK (30, 40, 50), nibabel (60, 80, 10)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7 nibabel==5.4.2
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk

scanner = np.diag([-2.0, -2.0, 3.0, 1.0])
scanner[:3, 3] = 30, 40, 50
aligned = scanner.copy()
aligned[:3, 3] = 60, 80, 10
for code in (1, 2, 3, 4):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
    image.set_qform(scanner, 1)
    image.set_sform(aligned, code)
    nib.save(image, "scan.nii")
    x, y, z = sitk.ReadImage("scan.nii").GetOrigin()  # LPS
    itk = tuple(round(v) for v in (-x, -y, z))
    nibabel_value = tuple(round(v) for v in nib.load("scan.nii").affine[:3, 3].tolist())
    print(f"sform code {code}: SimpleITK {itk}, nibabel {nibabel_value}")
    assert nibabel_value == (60, 80, 10)
    assert itk == ((60, 80, 10) if code == 1 else (30, 40, 50))
PYTHON
