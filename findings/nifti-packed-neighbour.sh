#!/usr/bin/env bash
# SimpleITK reads scan.nii under the name scan.nii.gz where both are in the folder.
#
# Versions: SimpleITK 2.5.7, nibabel 5.4.2, Python 3.11.
# Input: two valid NIfTI files in one folder that differ in the suffix only, as unpacking and processing again leaves them.
# Behaviour: SimpleITK takes the header and the voxels of scan.nii for either name; the packed file cannot be read at all
# while the other one lies beside it. nibabel reads the file of that name.
# Output seen:
#   scan.nii.gz: SimpleITK 1 and size (4, 5, 6), nibabel 2 and size (7, 8, 9)
#   scan.nii: SimpleITK 1 and size (4, 5, 6), nibabel 1 and size (4, 5, 6)
#   scan.nii.gz alone: SimpleITK 2 and size (7, 8, 9)
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
nib.save(nib.Nifti1Image(np.full((7, 8, 9), 2, np.int16), np.eye(4)), "scan.nii.gz")


def by_itk(name):
    image = sitk.ReadImage(name)
    return int(image[0, 0, 0]), image.GetSize()


def by_nibabel(name):
    image = nib.load(name)
    return int(image.get_fdata()[0, 0, 0]), image.shape


for name in ("scan.nii.gz", "scan.nii"):
    (itk, size), (nibabel_value, shape) = by_itk(name), by_nibabel(name)
    print(f"{name}: SimpleITK {itk} and size {size}, nibabel {nibabel_value} and size {shape}")
    assert (itk, size) == (1, (4, 5, 6))
    assert nibabel_value == (2 if name.endswith("gz") else 1)
os.remove("scan.nii")
itk, size = by_itk("scan.nii.gz")
print(f"scan.nii.gz alone: SimpleITK {itk} and size {size}")
assert (itk, size) == (2, (7, 8, 9))
PYTHON
