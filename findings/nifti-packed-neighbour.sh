#!/usr/bin/env bash
# SimpleITK reads scan.nii.gz with the voxels of scan.nii where both are in the folder.
#
# Versions: SimpleITK 2.5.7, nibabel 5.4.2, Python 3.11.
# Input: two valid NIfTI files in one folder that differ in the suffix only, as unpacking and processing again leaves them.
# Behaviour: under the name scan.nii.gz, SimpleITK takes the header of that file and the voxels of scan.nii beside it, without
# a warning. nibabel reads the file of that name, and so does SimpleITK once the other one is gone.
# Output seen:
#   scan.nii.gz: SimpleITK voxels 1, spacing 3.0; nibabel voxels 2, spacing 3.0
#   scan.nii: SimpleITK voxels 1, spacing 1.0; nibabel voxels 1, spacing 1.0
#   scan.nii.gz alone: SimpleITK voxels 2, spacing 3.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7 nibabel==5.4.2
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import os

import nibabel as nib
import numpy as np
import SimpleITK as sitk

nib.save(nib.Nifti1Image(np.full((4, 5, 6), 1, np.int16), np.eye(4)), "scan.nii")
nib.save(nib.Nifti1Image(np.full((4, 5, 6), 2, np.int16), np.diag([3.0, 3.0, 3.0, 1.0])), "scan.nii.gz")


def by_itk(name):
    image = sitk.ReadImage(name)
    values = np.unique(sitk.GetArrayFromImage(image)).tolist()
    return values, image.GetSpacing()[0]


def by_nibabel(name):
    image = nib.load(name)
    return np.unique(image.get_fdata()).astype(int).tolist(), float(image.header.get_zooms()[0])


for name, expected in (("scan.nii.gz", (2, 3.0)), ("scan.nii", (1, 1.0))):
    itk, nibabel = by_itk(name), by_nibabel(name)
    print(f"{name}: SimpleITK voxels {itk[0][0]}, spacing {itk[1]}; nibabel voxels {nibabel[0][0]}, spacing {nibabel[1]}")
    assert nibabel == ([expected[0]], expected[1])
    assert itk == ([1], expected[1])
os.remove("scan.nii")
itk = by_itk("scan.nii.gz")
print(f"scan.nii.gz alone: SimpleITK voxels {itk[0][0]}, spacing {itk[1]}")
assert itk == ([2], 3.0)
PYTHON
