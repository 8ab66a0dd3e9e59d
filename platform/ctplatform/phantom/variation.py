"""What differs between patients of a clinic beyond the default phantoms, one option each of `phantom.variation`.

Every option draws from a stream of its own and replaces only what it is about: what the others draw stays the same.
docs/explanation/phantom.md has the literature behind each, and what is not of the literature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ctplatform.phantom.parameters import (
    Disease,
    Findings,
    Kernel,
    Person,
    Scanner,
    SubjectParameters,
    random_stream,
)

if TYPE_CHECKING:
    from ctplatform.config.recipe import VariationConfig

FULL_BREATH_HU, BREATH_HU = -906.0, 56.0
"""Tissue at full inspiration, and how much denser it is at the shallowest breath of `parameters`."""

BREATH_FACTOR = 1.6
"""Times as far from full inspiration as without the option."""

KERNEL_NOISE_HU: dict[Kernel, float] = {"soft": 11.0, "medium": 16.0, "sharp": 24.0}
"""Standard deviation of the noise in the lungs at the standard dose."""

LOWEST_DOSE = 0.25
CALIBRATION_HU = 10.0

LEAST_EXTENT = 0.012
"""Of the lung: emphysema below it has no subtype and no cysts."""

PANLOBULAR_FACTOR = 0.8
"""Extent of panlobular emphysema with the LAA-950 of a centrilobular extent of 1."""

CENTRAL_FACTOR = 0.96
"""The same of cysts in the middle of the lung against cysts under the pleura."""

AIRWAY_LEVELS = 7
INTERSTITIAL_SHARE = 0.4
OPACITY_LOBES = ("right upper", "right lower", "left upper", "left lower")


def vary(parameters: SubjectParameters, variation: VariationConfig) -> SubjectParameters:
    """Apply the options to what was drawn for a subject; without any, the same parameters."""
    seed, index = parameters.seed, parameters.index
    disease, person, scanner = parameters.disease, parameters.person, parameters.scanner
    findings = parameters.findings
    if variation.scanners:
        scanner = _scanner(scanner, random_stream(seed, index, "v.scan"))
    if variation.breath:
        person = _breath(person)
    ill = disease.centrilobular + disease.panlobular + disease.paraseptal >= LEAST_EXTENT
    if variation.subtypes:
        disease = _subtype(disease, random_stream(seed, index, "v.type"))
    if variation.cysts:
        disease, findings = _cysts(disease, findings, random_stream(seed, index, "v.cysts"), ill=ill)
    if variation.airways:
        findings = replace(findings, bronchus_levels=AIRWAY_LEVELS)
    if variation.interstitial:
        rng = random_stream(seed, index, "v.ila")
        has, amount = rng.random() < INTERSTITIAL_SHARE, float(rng.uniform(0.02, 0.06))
        findings = replace(findings, interstitial=amount if has else 0.0)
    if variation.opacity:
        rng = random_stream(seed, index, "v.ggo")
        lobe, radius = OPACITY_LOBES[int(rng.integers(len(OPACITY_LOBES)))], float(rng.uniform(12, 17))
        findings = replace(findings, opacity_lobe=lobe, opacity_mm=radius)
    return replace(parameters, disease=disease, person=person, scanner=scanner, findings=findings)


def findings_labels(
    parameters: SubjectParameters, variation: VariationConfig
) -> dict[str, float | int | str]:
    """Labels of the options that are on, one a column; a label that does not apply to a subject is left out."""
    disease, findings = parameters.disease, parameters.findings
    labels: dict[str, float | int | str] = {}
    if variation.subtypes and disease.centrilobular + disease.panlobular >= LEAST_EXTENT:
        labels["panlobular"] = int(disease.panlobular > 0)
    if variation.cysts and disease.paraseptal > 0:
        labels["subpleural_cysts"] = int(not findings.central_cysts)
    if variation.airways:
        labels["pi10"] = round(pi10(disease.airway), 3)
    if variation.interstitial:
        labels["interstitial"] = int(findings.interstitial > 0)
    if variation.opacity:
        labels["opacity_upper"] = int(findings.opacity_lobe.endswith("upper"))
    return labels


def wall_mm(airway: float, radius_mm: float) -> float:
    """Thickness of a bronchus' wall by airway disease (standard deviations) and the radius of its lumen, mm."""
    return float(np.exp(0.22 * airway)) * (0.32 + 0.16 * radius_mm)


def pi10(airway: float) -> float:
    """Square root of the wall area of a bronchus with an inner perimeter of 10 mm, mm.

    The measure is used as in doi:10.1186/s12890-017-0363-0.
    """
    inner = 10 / (2 * np.pi)
    outer = inner + wall_mm(airway, inner)
    return float(np.sqrt(np.pi * (outer**2 - inner**2)))


def _scanner(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    kernels: tuple[Kernel, ...] = ("soft", "medium", "sharp")
    kernel = kernels[int(rng.integers(3))]
    dose = float(np.exp(rng.uniform(np.log(LOWEST_DOSE), 0.0)))
    return replace(
        scanner,
        kernel=kernel,
        noise_hu=KERNEL_NOISE_HU[kernel] / float(np.sqrt(dose)),
        offset_hu=float(rng.normal(0, CALIBRATION_HU)),
        filters=True,
    )


def _breath(person: Person) -> Person:
    """The same lungs at a shallower breath: denser, lower, with higher domes."""
    before = (person.tissue_hu - FULL_BREATH_HU) / BREATH_HU
    after = BREATH_FACTOR * before
    dome = (1 + 0.15 * after) / (1 + 0.15 * before)
    return replace(
        person,
        tissue_hu=FULL_BREATH_HU + BREATH_HU * after,
        height=person.height * (1 - 0.16 * after) / (1 - 0.16 * before),
        dome_right=person.dome_right * dome,
        dome_left=person.dome_left * dome,
    )


def _subtype(disease: Disease, rng: np.random.Generator) -> Disease:
    extent = disease.centrilobular + disease.panlobular + disease.paraseptal
    panlobular = rng.random() < 0.5
    return replace(
        disease,
        centrilobular=0.0 if panlobular else extent,
        panlobular=PANLOBULAR_FACTOR * extent if panlobular else 0.0,
        paraseptal=0.0,
    )


def _cysts(
    disease: Disease, findings: Findings, rng: np.random.Generator, *, ill: bool
) -> tuple[Disease, Findings]:
    central, amount = bool(rng.random() < 0.5), float(rng.uniform(0.02, 0.04))
    if not ill:
        return replace(disease, paraseptal=0.0), findings
    amount *= CENTRAL_FACTOR if central else 1.0
    return replace(disease, paraseptal=amount), replace(findings, central_cysts=central)
