#!/usr/bin/env bash
# SimpleITK reads NaN voxels of a NIfTI file as 0: in a CT, air outside the field of view becomes water.
#
# Versions: SimpleITK 2.5.7, nibabel 5.4.2, Python 3.11.
# Input: a floating-point CT in HU whose voxels outside the field of view are NaN, which NIfTI allows; .nii or .nii.gz.
# Behaviour: nibabel returns NaN, and so does SimpleITK for the same voxels in NRRD. From NIfTI, SimpleITK returns 0, for
# float32 and float64, without a warning; 0 HU is water.
# Output seen:
#   float32 NIfTI: SimpleITK [-1000.0, 0.0], nibabel [-1000.0, nan]
#   float64 NIfTI: SimpleITK [-1000.0, 0.0], nibabel [-1000.0, nan]
#   float32 NRRD: SimpleITK [-1000.0, nan]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7 nibabel==5.4.2
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk


def values(array):
    return np.unique(array).astype(float).tolist()


for kind in (np.float32, np.float64):
    hu = np.full((6, 5, 4), -1000, kind)
    hu[0] = np.nan
    nib.save(nib.Nifti1Image(hu, np.eye(4)), "scan.nii.gz")
    itk = values(sitk.GetArrayFromImage(sitk.ReadImage("scan.nii.gz")))
    nibabel_value = values(nib.load("scan.nii.gz").get_fdata())
    print(f"{np.dtype(kind)} NIfTI: SimpleITK {itk}, nibabel {nibabel_value}")
    assert itk == [-1000.0, 0.0]
    assert nibabel_value[0] == -1000.0 and np.isnan(nibabel_value[1])
image = sitk.GetImageFromArray(np.where(np.arange(120).reshape(4, 5, 6) < 30, np.nan, -1000).astype(np.float32))
sitk.WriteImage(image, "scan.nrrd")
nrrd = values(sitk.GetArrayFromImage(sitk.ReadImage("scan.nrrd")))
print(f"float32 NRRD: SimpleITK {nrrd}")
assert nrrd[0] == -1000.0 and np.isnan(nrrd[1])
PYTHON
