#!/usr/bin/env bash
# SimpleITK reads NRRD and MetaImage files past fields that say what their numbers mean.
#
# Versions: SimpleITK 2.5.7, Python 3.11.
# Input: valid headers with fields of the formats' own descriptions (teem.sourceforge.net/nrrd, the MetaIO page of itk.org).
# Behaviour: without a warning,
# - a NRRD in space 3D-left-handed, a mirror image of right-handed spaces, gets the same axes as left-posterior-superior;
# - NRRD space units and MetaImage DistanceUnits of cm are read as mm: a chest of 4 cm;
# - ElementToIntensityFunctionSlope and -Offset of MetaImage, which turn stored numbers into HU, are not applied.
# Output seen:
#   NRRD 3D-left-handed: direction as of left-posterior-superior: True
#   NRRD in cm: spacing (0.7, 0.7, 0.4)
#   MetaImage in cm: spacing (0.7, 0.7, 0.4)
#   MetaImage with offset -1024: stored 24, SimpleITK 24
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 simpleitk==2.5.7
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import numpy as np
import SimpleITK as sitk

VOXELS = np.full(120, 24, "<i2").tobytes()


def nrrd(space, more=""):
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nspace: {space}\nsizes: 4 5 6\n"
        "space directions: (0.7,0,0) (0,0.7,0) (0,0,0.4)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        f"space origin: (1,2,3)\n{more}\n"
    )
    with open("scan.nrrd", "wb") as file:
        file.write(header.encode() + VOXELS)
    return sitk.ReadImage("scan.nrrd")


def metaimage(more):
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n{more}ElementSpacing = 0.7 0.7 0.4\n"
        "DimSize = 4 5 6\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    with open("scan.mha", "wb") as file:
        file.write(header.encode() + VOXELS)
    return sitk.ReadImage("scan.mha")


upright, left_handed = nrrd("left-posterior-superior"), nrrd("3D-left-handed")
same = (upright.GetDirection(), upright.GetOrigin()) == (left_handed.GetDirection(), left_handed.GetOrigin())
print(f"NRRD 3D-left-handed: direction as of left-posterior-superior: {same}")
assert same
in_cm = nrrd("left-posterior-superior", 'space units: "cm" "cm" "cm"\n').GetSpacing()
print(f"NRRD in cm: spacing {in_cm}")
assert in_cm == (0.7, 0.7, 0.4)
in_cm = metaimage("DistanceUnits = cm\n").GetSpacing()
print(f"MetaImage in cm: spacing {in_cm}")
assert in_cm == (0.7, 0.7, 0.4)
scaled = metaimage("ElementToIntensityFunctionSlope = 1\nElementToIntensityFunctionOffset = -1024\n")
value = int(scaled[0, 0, 0])
print(f"MetaImage with offset -1024: stored 24, SimpleITK {value}")
assert value == 24
PYTHON
