"""Sampling against the cubic B-spline of the volume by SimpleITK: HU, density measure, CPU time.

    python -m tests.benchmarks.sampling --atlas FOLDER

Real scans come from the folder that DRASCLR_REAL_CT names; FOLDER is that of the published atlas. The reference is
computed at the very positions of the patches, so what differs is interpolation alone.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.imaging.hounsfield import PADDING_HU
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.preparation.sampling import sample_patches
from ctplatform.registration.affine_registration import register
from ctplatform.registration.template import DEFAULTS, Template
from drasclr.atlas import Atlas
from tests.benchmarks.document import replace, table
from tests.benchmarks.registration import REAL

WINDOW_HU = (-1024, 240)


def published_atlas(folder: Path, *, every: int = 1) -> Atlas:
    """The published atlas with every n-th of its locations."""
    mask = sitk.ReadImage(str(folder / "atlas_lung_mask.nii.gz"), sitk.sitkUInt8)
    return Atlas.from_template(
        sitk.GetArrayViewFromImage(mask),
        spacing=mask.GetSpacing(),
        origin=mask.GetOrigin(),
        direction=mask.GetDirection(),
        corners_N3=np.load(folder / "atlas_patch_loc.npy")[::every],
    )


def compare(image: sitk.Image, labels: sitk.Image, affine_44: np.ndarray, atlas: Atlas) -> list[str]:
    """One row of the table: the reference's share below -950 HU, then error and share of both interpolations."""
    size = atlas.patch_size
    patches, seconds = {}, {}
    for kind in ("bspline", "linear"):
        start = time.process_time()
        patches[kind] = sample_patches(image, affine_44, atlas, interpolation=kind, hu_window=WINDOW_HU)
        seconds[kind] = time.process_time() - start
    first_N3 = patches["bspline"].centres_mm_N3 - (size - 1) / 2
    low_3 = first_N3.min(axis=0)
    starts_N3 = np.rint(first_N3 - low_3).astype(int)
    shape = (starts_N3.max(axis=0) + size).tolist()
    axes = np.eye(3).ravel().tolist()
    start = time.process_time()
    grid = (shape, sitk.Transform(), sitk.sitkBSpline, low_3.tolist(), [1.0] * 3, axes, float(PADDING_HU))
    spline_ZYX = sitk.GetArrayFromImage(sitk.Resample(sitk.Cast(image, sitk.sitkFloat32), *grid))
    peer_seconds = time.process_time() - start
    spline_ZYX = np.clip(spline_ZYX, *WINDOW_HU)
    nearest = (shape, sitk.Transform(), sitk.sitkNearestNeighbor, low_3.tolist(), [1.0] * 3, axes)
    lung_ZYX = sitk.GetArrayFromImage(sitk.Resample(labels, *nearest)) > 0
    row = []
    boxes = [tuple(slice(a, a + size) for a in start[::-1]) for start in starts_N3]
    reference = np.concatenate([spline_ZYX[box][lung_ZYX[box]] for box in boxes])
    share = np.mean(reference < -950)
    row.append(f"{share:.4f}")
    for result in patches.values():
        found = np.concatenate([hu[lung_ZYX[box]] for hu, box in zip(result.hu_NDHW, boxes)])
        row.append(f"{np.abs(found - reference).mean():.2f}")
        row.append(f"{np.mean(found < -950) / share - 1:+.1%}" if share else "")
    row += [f"{seconds['bspline']:.2f}", f"{seconds['linear']:.2f}", f"{peer_seconds:.1f}"]
    return row


def main() -> None:
    """Run and write the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--ct", default=os.environ.get("DRASCLR_REAL_CT"))
    options.add_argument("--atlas", required=True, help="folder of the published atlas")
    args = options.parse_args()
    if not args.ct:
        options.error("give --ct or set DRASCLR_REAL_CT")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    template = Template.read(Path(args.atlas) / "atlas_lung_mask.nii.gz")
    atlas = published_atlas(Path(args.atlas))
    segment = make_segmenter(LungsConfig.model_validate({}))
    rows = []
    for name, path in REAL.items():
        image = read_volume(Path(args.ct) / path).image
        labels = segment(image).labels
        affine_44 = register(labels, template, DEFAULTS).affine_44
        rows.append([name, *compare(image, labels, affine_44, atlas)])
        print(*rows[-1], flush=True)
    head = ("scan", "LAA-950, peer", "mean dHU", "LAA-950", "linear: mean dHU", "LAA-950")
    head = (*head, "CPU-s", "linear", "peer")
    text = f"""`python -m tests.benchmarks.sampling`: 581 patches a scan, voxels of the lung mask, against the cubic
B-spline of the volume by SimpleITK (the peer) at the same positions. LAA-950: share of these voxels below -950 HU; ours
and linear as a relative difference from the peer's. Bars: mean difference at most 5 HU, LAA-950 within 10%.

{table(head, rows)}
"""
    replace("Sampling", text)


if __name__ == "__main__":
    main()
