"""Phantoms of lungs that are hard to segment: Dice against the true lungs, and verdicts.

DRASCLR_ATLAS=... python -m tests.benchmarks.hard_lungs [--write]

`--write` puts the table into docs/validation.md.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.config.preparation import PrepareConfig
from ctplatform.errors import ScanError
from ctplatform.imaging.volume import Volume
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.measures import density
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.preparation.quality import assess, measure
from ctplatform.registration.affine_registration import register
from ctplatform.registration.template import Template
from tests.benchmarks import document
from tests.benchmarks.validation import PAGE, replaced_section
from tests.ctplatform.lungs.diseased import KINDS, diseased
from tests.ctplatform.lungs.masks import dice, fine_on_grid

SECTION = "Phantoms of lungs that are hard to segment"
CONFIG = PrepareConfig.model_validate({})
SUBJECTS = (2,)


def row(kind: str, number: int, template: Template) -> list[str]:
    """Dice, volume and LAA-950 of one phantom beside the true ones, and its verdict."""
    image, truth = diseased(kind, number)
    true = sitk.GetArrayViewFromImage(truth)
    mask = make_segmenter(CONFIG.lungs)(image)
    found = fine_on_grid(mask, image)
    scores = [
        f"{dice(found == label, true == label):.3f}" if (true == label).any() else "none"
        for label in (RIGHT, LEFT)
    ]
    voxel_l = float(np.prod(image.GetSpacing())) / 1e6
    shares = [density(image, labels)["laa950"] for labels in (mask.labels, truth)]
    try:
        registration = register(mask.labels, template, CONFIG.registration)
        measures = measure(Volume(image, (), {}), mask, registration, None, template)
        verdict = assess(measures, CONFIG.quality, notes=mask.notes)
        said = f"{verdict.state}{': ' + verdict.reasons[0] if verdict.reasons else ''}"
    except ScanError as error:
        said = f"failed: {error.problem}"
    volumes = f"{(found > 0).sum() * voxel_l:.2f} ({(true > 0).sum() * voxel_l:.2f})"
    return [kind, f"{number}", *scores, volumes, f"{shares[0]:.3f} ({shares[1]:.3f})", said]


def render(rows: list[list[str]]) -> str:
    """The section of docs/validation.md."""
    head = [
        "kind", "phantom", "Dice right", "left", "volume, L (true)", "LAA-950 (true)", "verdict, first reason",
    ]  # fmt: skip
    return (
        "Synthetic chests with one thing changed (`tests/ctplatform/lungs/diseased.py`), against the lungs that are "
        "aerated and none of what is fluid, collapsed, free air or gas of the abdomen. Registered to the published "
        "atlas; they have no noise of a low dose and no motion, and say what the rules do, not how often they err. "
        "Dice is that of the mask as it is shown and written.\n\n"
        "```console\n$ DRASCLR_ATLAS=ATLAS python -m tests.benchmarks.hard_lungs --write\n```\n\n"
        + document.table(head, rows)
    )


def main() -> None:
    """Table of all kinds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="replace the section of docs/validation.md")
    args = parser.parse_args()
    atlas = Path(os.environ.get("DRASCLR_ATLAS", ""), "atlas_lung_mask.nii.gz")
    if not atlas.is_file():
        raise SystemExit("Set DRASCLR_ATLAS to the published atlas's folder.")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    template = Template.read(atlas, config=CONFIG.registration)
    text = render([row(kind, number, template) for kind in KINDS for number in SUBJECTS])
    print(text)
    if args.write:
        PAGE.write_text(replaced_section(PAGE.read_text(encoding="utf-8"), SECTION, text), encoding="utf-8")


if __name__ == "__main__":
    main()
