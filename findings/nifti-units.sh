#!/usr/bin/env bash
# nibabel and SimpleITK differ by a factor of 1,000 on a NIfTI file whose lengths are in metres or micrometres.
#
# Versions: nibabel 5.4.2, SimpleITK 2.5.7, scipy 1.17.1, Python 3.11.
# Input: NIfTI-1 files with xyzt_units of 1 (metre), 2 (millimetre) and 3 (micrometre, usual for micro-CT); nifti1.h lists all three.
# The same 8 x 8 x 8 voxels of 0.7 mm.
# Behaviour: SimpleITK converts spacing and origin to mm. nibabel's affine and zooms stay in the file's unit without a warning,
# and so does nibabel.processing, whose voxel sizes are "in mm": asked for 0.35 mm, it makes 2 x 2 x 2 voxels of
# the metre file (15 x 15 x 15 would be right), and its header says that they are 0.35 metres long.
# Output seen:
#   mm: SimpleITK 0.70, nibabel 0.7; resampled to 0.35 mm: (15, 15, 15), unit mm
#   meter: SimpleITK 0.70, nibabel 0.0007; resampled to 0.35 mm: (2, 2, 2), unit meter
#   micron: SimpleITK 0.70, nibabel 700
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 nibabel==5.4.2 simpleitk==2.5.7 scipy==1.17.1
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.processing import resample_to_output

for unit, length in (("mm", 0.7), ("meter", 0.0007), ("micron", 700.0)):
    image = nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.diag([length, length, length, 1]))
    image.header.set_xyzt_units(unit)
    nib.save(image, "scan.nii")
    spacing, zoom = sitk.ReadImage("scan.nii").GetSpacing()[0], float(nib.load("scan.nii").header.get_zooms()[0])
    line = f"{unit}: SimpleITK {spacing:.2f}, nibabel {zoom:.4g}"
    assert abs(spacing - 0.7) < 1e-6
    assert abs(zoom - length) < 1e-6 * length
    if unit != "micron":  # 4,900 mm along each axis: the result would not fit into memory
        made = resample_to_output(nib.load("scan.nii"), (0.35, 0.35, 0.35))
        kept = made.header.get_xyzt_units()[0]
        line += f"; resampled to 0.35 mm: {made.shape}, unit {kept}"
        assert made.shape == ((15, 15, 15) if unit == "mm" else (2, 2, 2))
    print(line)
PYTHON
