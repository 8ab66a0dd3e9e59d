"""Sampling an oblique scan: the cells that patches touch, against the whole box around them.

    python -m tests.benchmarks.oblique --atlas FOLDER [--repeats 3] [--write]

A real scan from the folder that DRASCLR_REAL_CT names, its header turned by 3, -4 and 5 degrees; FOLDER is that of the
published atlas, whose 581 locations are taken all, or every tenth. Both ways work in turn in one process, and the
fastest of each counts, in CPU seconds of one thread. Patches must be the same to the last bit.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from ctplatform.config.preparation import LungsConfig
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.preparation import sampling
from ctplatform.preparation.interpolation import resample_box
from ctplatform.registration.affine import affine_from
from ctplatform.registration.affine_registration import register
from ctplatform.registration.template import DEFAULTS, Template
from tests.benchmarks import document, realscans
from tests.benchmarks.registration import REAL
from tests.benchmarks.sampling import published_atlas

DEGREES = (3, -4, 5)


def whole_box(*arguments: Any, cubes: Any = None) -> Any:
    """`resample_box` of everything, whatever is needed."""
    return resample_box(*arguments)


def turned(image: sitk.Image, affine_44: np.ndarray) -> tuple[sitk.Image, np.ndarray]:
    """The scan and its registration, turned together about the scan's origin."""
    turn_33 = Rotation.from_euler("xyz", DEGREES, degrees=True).as_matrix()
    other = sitk.Image(image)
    other.SetDirection((turn_33 @ np.array(image.GetDirection()).reshape(3, 3)).ravel().tolist())
    origin_3 = np.array(image.GetOrigin())
    return other, affine_from(turn_33, origin_3 - turn_33 @ origin_3) @ affine_44


def rows(image: sitk.Image, affine_44: np.ndarray, folder: Path, *, repeats: int) -> list[list[str]]:
    """A line for all locations, and one for every tenth."""
    lines = []
    for every in (1, 10):
        some = published_atlas(folder, every=every)
        best: dict[str, float] = {}
        found: dict[str, np.ndarray] = {}
        for _ in range(repeats):
            for name, way in (("box", whole_box), ("cells", resample_box)):
                with patch.object(sampling, "resample_box", way):
                    start = time.process_time()
                    found[name] = sampling.sample_patches(image, affine_44, some).hu_NDHW
                    seconds = time.process_time() - start
                best[name] = min(best.get(name, seconds), seconds)
        same = "yes" if np.array_equal(found["box"], found["cells"]) else "no"
        times = f"{best['box']:.1f}", f"{best['cells']:.1f}", f"{best['box'] / best['cells']:.1f}x"
        lines.append([str(len(some.corners_N3)), *times, same])
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ct", default=os.environ.get("DRASCLR_REAL_CT"))
    parser.add_argument("--atlas", required=True, type=Path, help="folder of the published atlas")
    parser.add_argument("--scan", default=next(iter(REAL)), choices=list(REAL))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    if not options.ct:
        parser.error("give --ct or set DRASCLR_REAL_CT")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image = read_volume(Path(options.ct) / REAL[options.scan]).image
    labels = make_segmenter(LungsConfig.model_validate({}))(image).labels
    template = Template.read(options.atlas / "atlas_lung_mask.nii.gz")
    scan, affine_44 = turned(image, register(labels, template, DEFAULTS).affine_44)
    head = ["locations", "whole box, s", "cells, s", "ratio", "same patches"]
    made = document.table(head, rows(scan, affine_44, options.atlas, repeats=options.repeats))
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.oblique --repeats {options.repeats}`: {options.scan}, turned by",
            "3, -4 and 5 degrees; CPU-seconds of sampling on one thread, in turn.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            made,
        ]
    )
    print(text)
    if options.write:
        document.replace("Oblique scans", text)


if __name__ == "__main__":
    main()
