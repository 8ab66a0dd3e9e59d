"""One phantom subject: its random parameters, and the image in HU, the masks and the labels that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ctplatform.phantom import regions
from ctplatform.phantom.disease import CENTRILOBULAR, PANLOBULAR, PARASEPTAL
from ctplatform.phantom.labels import Truth, clinical
from ctplatform.phantom.parameters import SubjectParameters, draw, random_stream
from ctplatform.phantom.scan import acquire, to_image
from ctplatform.phantom.scene import Scene
from ctplatform.phantom.variation import findings_labels, vary

if TYPE_CHECKING:
    from ctplatform.config.recipe import PhantomConfig


@dataclass(frozen=True)
class PhantomSubject:
    """A synthetic scan with its truth.

    Attributes:
        scan_id, subject_id: names, unique in the cohort.
        image: int16 HU; axes, direction and padding vary by subject.
        lungs: uint8 on the same grid: 50 patient's right, 100 patient's left, vessels and airways of the lung included.
        disease: uint8 bits on the same grid: 1 centrilobular, 2 panlobular, 4 paraseptal, 8 nodule, 16 interstitial,
            32 opacity.
        subtypes: uint8 on the same grid, as a reader would mark it, values as `regions.SUBTYPES`; 0 outside the lungs.
        lobes: uint8 on the same grid, values as `regions.LOBES`.
        labels: the clinical labels and true extents, one value a cohort column.
        parameters: all that was drawn at random for the subject.
    """

    scan_id: str
    subject_id: str
    image: sitk.Image
    lungs: sitk.Image
    disease: sitk.Image
    subtypes: sitk.Image
    lobes: sitk.Image
    labels: dict[str, float | int | str]
    parameters: SubjectParameters


def make_subject(index: int, *, config: PhantomConfig) -> PhantomSubject:
    """Make subject `index` of the cohort; the same (config.seed, index) gives the same voxels.

    Raises:
        ValueError: negative index.
    """
    if index < 0:
        raise ValueError(f"subjects are counted from 0, got {index}")
    parameters = draw(index, seed=config.seed, spacing_mm=config.spacing_mm, dicom=is_dicom(index, config))
    parameters = vary(parameters, config.variation)
    scene = Scene.build(parameters)
    box = scene.field_of_view()
    rendered = scene.render(box)
    bits = rendered.disease[rendered.lungs > 0]
    extents = {bit: float(np.mean((bits & bit) > 0)) for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL)}
    truth = Truth(
        emphysema=float(np.mean((bits & (CENTRILOBULAR | PANLOBULAR | PARASEPTAL)) > 0)),
        centrilobular=extents[CENTRILOBULAR],
        panlobular=extents[PANLOBULAR],
        paraseptal=extents[PARASEPTAL],
        nodules=parameters.disease.nodules,
        airway=parameters.disease.airway,
        age=parameters.person.age,
        sex=parameters.person.sex,
    )
    return PhantomSubject(
        scan_id=f"phantom-{index:04d}",
        subject_id=f"P{index:04d}",
        image=to_image(acquire(rendered.hu, box, parameters), box, parameters.scanner),
        lungs=to_image(rendered.lungs, box, parameters.scanner),
        disease=to_image(rendered.disease, box, parameters.scanner),
        subtypes=to_image(
            regions.subtypes(rendered.disease, rendered.lungs > 0, tuple(box.spacing[::-1])),
            box,
            parameters.scanner,
        ),
        lobes=to_image(rendered.lobes, box, parameters.scanner),
        labels=clinical(truth, rng=random_stream(config.seed, index, "labels"))
        | findings_labels(parameters, config.variation),
        parameters=parameters,
    )


def is_dicom(index: int, config: PhantomConfig) -> bool:
    """Whether this subject is written as a DICOM series."""
    return config.dicom_every > 0 and index % config.dicom_every == config.dicom_every - 1
