"""Dice of the lung mask against contours of a real scan, and what of the difference the grid of the mask is.

DRASCLR_REAL_CT=... python -m tests.benchmarks.mask_dice [--write]

`--write` puts the table into docs/validation.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config.preparation import LungsConfig
from ctplatform.imaging.label_map import image_of, read_labels
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.segmenter import make_segmenter
from tests.benchmarks import document
from tests.benchmarks.validation import PAGE, replaced_section
from tests.ctplatform.lungs.masks import dice, fine_on_grid, on_grid

SECTION = "Lung mask against contours"
SCAN, CONTOURS = "cxr.nii.gz", "mask.nii.gz"
LOBES = {RIGHT: (12, 13, 14), LEFT: (10, 11)}
"""Values of the lobes in the labels that come with the scan (structures.csv)."""


def contours_of(folder: Path, image: sitk.Image) -> NDArray[np.uint8]:
    """The lobes of each lung [z, y, x] on the scan's grid, 50 and 100."""
    stored = read_labels(str(folder / CONTOURS))
    labels = image_of(stored.volume.values_ZYX.astype(np.uint8), stored.volume)
    placed = sitk.Resample(labels, image, sitk.Transform(), sitk.sitkNearestNeighbor)
    values_ZYX = sitk.GetArrayViewFromImage(placed)
    out_ZYX = np.zeros(values_ZYX.shape, np.uint8)
    for label, lobes in LOBES.items():
        out_ZYX[np.isin(values_ZYX, lobes)] = label
    return out_ZYX


def over_grid(mask_ZYX: NDArray[np.bool_], image: sitk.Image, labels: sitk.Image) -> NDArray[np.bool_]:
    """A mask brought to a coarse grid, where half a voxel counts, and back."""
    share = sitk.GetImageFromArray(mask_ZYX.astype(np.float32))
    share.CopyInformation(image)
    factors = [round(coarse / fine) for coarse, fine in zip(labels.GetSpacing(), image.GetSpacing())]
    coarse = sitk.BinShrink(share, factors) >= 0.5
    back = sitk.Resample(coarse, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8, True)
    return sitk.GetArrayFromImage(back) > 0


def rows(folder: Path) -> list[list[str]]:
    """Dice of the right and the left lung."""
    image = read_volume(folder / SCAN).image
    true_ZYX = contours_of(folder, image)
    mask = make_segmenter(LungsConfig.model_validate({}))(image)
    by_mm = " x ".join(f"{mm:.1f}" for mm in mask.labels.GetSpacing())
    compared = {
        f"the contours themselves, brought to the mask's grid ({by_mm} mm) and back": None,
        "mask on that grid, copied to the scan's voxels": on_grid(mask, image),
        "mask as it is shown and written": fine_on_grid(mask, image),
    }
    out = []
    for name, found_ZYX in compared.items():
        scores = []
        for label in (RIGHT, LEFT):
            true = true_ZYX == label
            found = over_grid(true, image, mask.labels) if found_ZYX is None else found_ZYX == label
            scores.append(f"{dice(found, true):.3f}")
        out.append([name, *scores])
    return out


def render(table: list[list[str]]) -> str:
    """The section of docs/validation.md."""
    return (
        "`lidc_0001` (LIDC-IDRI-0001, voxels of 0.7 x 0.7 x 2.5 mm) against the lobes of the labels that come with it. "
        "Preparing works with the mask on a coarse grid, whose steps alone cost 2%. Overlays, `drasclr view` and "
        "`drasclr view --mask FILE` show and write the mask with its surface placed by the scan's own HU.\n\n"
        "```console\n$ DRASCLR_REAL_CT=FOLDER python -m tests.benchmarks.mask_dice --write\n```\n\n"
        + document.table(["compared with the contours", "Dice right", "left"], table)
    )


def main() -> None:
    """Table of one scan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the section of docs/validation.md")
    args = parser.parse_args()
    folder = Path(os.environ.get("DRASCLR_REAL_CT", ""), "lidc_0001")
    if not (folder / CONTOURS).is_file():
        raise SystemExit("Set DRASCLR_REAL_CT to the folder of real CTs.")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    text = render(rows(folder))
    print(text)
    if args.write:
        PAGE.write_text(replaced_section(PAGE.read_text(encoding="utf-8"), SECTION, text), encoding="utf-8")


if __name__ == "__main__":
    main()
