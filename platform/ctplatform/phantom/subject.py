"""One phantom subject: from the draw to the image in HU, the masks and the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ctplatform.phantom import regions
from ctplatform.phantom.disease import CENTRILOBULAR, PANLOBULAR, PARASEPTAL
from ctplatform.phantom.labels import Truth, clinical
from ctplatform.phantom.person import Draw, draw, stream
from ctplatform.phantom.scan import acquire, to_image
from ctplatform.phantom.scene import Scene

if TYPE_CHECKING:
    from ctplatform.config.recipe import PhantomConfig


@dataclass(frozen=True)
class PhantomSubject:
    """A synthetic scan and everything that is known about it.

    Attributes:
        scan_id, subject_id: names, unique in the cohort.
        image: int16 HU; axes, direction and padding as drawn.
        lungs: uint8 on the same grid: 50 patient's right, 100 patient's left, vessels and airways of the lung included.
        disease: uint8 bits on the same grid: 1 centrilobular, 2 panlobular, 4 paraseptal, 8 nodule.
        subtypes: uint8 on the same grid, as a reader would paint it: see `regions.SUBTYPES`; 0 outside the lungs.
        lobes: uint8 on the same grid: see `regions.LOBES`.
        labels: the clinical labels and true extents, one value a cohort column.
        draw: all parameters.
    """

    scan_id: str
    subject_id: str
    image: sitk.Image
    lungs: sitk.Image
    disease: sitk.Image
    subtypes: sitk.Image
    lobes: sitk.Image
    labels: dict[str, float | int | str]
    draw: Draw


def make_subject(index: int, *, config: PhantomConfig) -> PhantomSubject:
    """Make subject `index` of the cohort; the same (config.seed, index) gives the same voxels.

    Raises:
        ValueError: negative index.
    """
    if index < 0:
        raise ValueError(f"subjects are counted from 0, got {index}")
    drawn = draw(index, seed=config.seed, spacing_mm=config.spacing_mm, dicom=is_dicom(index, config))
    scene = Scene.build(drawn)
    box = scene.field_of_view()
    rendered = scene.render(box)
    bits = rendered.disease[rendered.lungs > 0]
    extents = {bit: float(np.mean((bits & bit) > 0)) for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL)}
    truth = Truth(
        emphysema=float(np.mean((bits & (CENTRILOBULAR | PANLOBULAR | PARASEPTAL)) > 0)),
        centrilobular=extents[CENTRILOBULAR],
        panlobular=extents[PANLOBULAR],
        paraseptal=extents[PARASEPTAL],
        nodules=drawn.disease.nodules,
        airway=drawn.disease.airway,
        age=drawn.person.age,
        sex=drawn.person.sex,
    )
    return PhantomSubject(
        scan_id=f"phantom-{index:04d}",
        subject_id=f"P{index:04d}",
        image=to_image(acquire(rendered.hu, box, drawn), box, drawn.scanner),
        lungs=to_image(rendered.lungs, box, drawn.scanner),
        disease=to_image(rendered.disease, box, drawn.scanner),
        subtypes=to_image(
            regions.subtypes(rendered.disease, rendered.lungs > 0, tuple(box.spacing[::-1])),
            box,
            drawn.scanner,
        ),
        lobes=to_image(rendered.lobes, box, drawn.scanner),
        labels=clinical(truth, rng=stream(config.seed, index, "labels")),
        draw=drawn,
    )


def is_dicom(index: int, config: PhantomConfig) -> bool:
    """Whether this subject is written as a DICOM series."""
    return config.dicom_every > 0 and index % config.dicom_every == config.dicom_every - 1
