"""Random parameters of one phantom subject: person, disease and scanner, drawn once from (seed, index).

Lengths in mm. Body frame: x to the patient's left, y to the back, z upwards; the lungs reach from z = 0 (the deepest
recess) to z = `height` (the apex), the midline is x = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

GOLDEN_RATIO_CONJUGATE = 0.6180339887498949
"""Multiples of it modulo 1 fill the unit interval evenly at any count."""

Kernel = Literal["soft", "medium", "sharp"]

KERNEL_SIGMA_MM: dict[Kernel, float] = {"soft": 0.60, "medium": 0.46, "sharp": 0.30}
"""Standard deviation of the reconstruction kernel's point spread."""

KERNEL_NOISE: dict[Kernel, float] = {"soft": 1.0, "medium": 1.35, "sharp": 2.2}
"""Noise relative to the soft kernel."""

KERNEL_FILTER: dict[Kernel, tuple[float, float]] = {
    "soft": (1.0, 1.0),
    "medium": (1.0, 0.0),
    "sharp": (1.2, -0.6),
}
"""Filters of kernels: width of a Gaussian, mm, and the share of it that replaces the image; below 0: unsharp mask."""

PADDING_VALUES_HU = (-1000, -1024, -2048, -3024)
"""Values of scanners outside their field of view."""


def random_stream(seed: int, index: int, name: str) -> np.random.Generator:
    """A random stream of one subject for one purpose, independent of all others."""
    key = int.from_bytes(name.encode()[:8].ljust(8, b"\0"), "little")
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(index, key)))


@dataclass(frozen=True)
class Disease:
    """Disease to place; extents are targets as fractions of the lung, the truth is counted in voxels."""

    centrilobular: float
    panlobular: float
    paraseptal: float
    hole_mm: float
    """Median diameter of the centrilobular holes."""
    zone: float
    """Strength of the upper-zone (centrilobular) and lower-zone (panlobular) preference."""
    nodules: int
    airway: float
    """Airway disease in standard deviations: thickens walls and lowers FEV1, leaves density alone."""


@dataclass(frozen=True)
class Person:
    """Body, lungs and depth of breath; lengths in mm."""

    age: float
    sex: Literal["F", "M"]
    height: float
    half_width: float
    half_depth: float
    roundness: float
    cap_power: float
    dome_right: float
    dome_left: float
    wall_side: float
    wall_front: float
    wall_back: float
    kyphosis: float
    heart: tuple[float, float, float]
    heart_shift: float
    tissue_hu: float
    """Density of lung tissue without resolved vessels, at this breath."""
    gravity_hu: float
    """Difference from front to back."""
    contrast_hu: float
    """HU of blood; above 100 with contrast medium."""
    stomach_gas: bool
    warp_mm: float


@dataclass(frozen=True)
class Scanner:
    """Geometry and noise of the scan."""

    spacing: tuple[float, float, float]
    kernel: Kernel
    noise_hu: float
    """Standard deviation of the noise in the middle of the lungs."""
    offset_hu: float
    """Calibration error of the HU scale."""
    padding_hu: int
    pose_deg: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    oblique_deg: tuple[float, float, float]
    """Rotation of the image axes; zero for most scans."""
    axes: tuple[int, int, int]
    """Which body axis each image axis runs along: an order of 0, 1, 2."""
    flips: tuple[bool, bool, bool]
    """Whether each image axis runs against its body axis (LPS)."""
    margin_top: float
    margin_bottom: float
    table_drop: float
    manufacturer: str
    filters: bool = False
    """Whether the kernel also blurs or sharpens what it reconstructs, tissue and noise alike."""


@dataclass(frozen=True)
class Findings:
    """What a subject has beside emphysema and nodules; none by default."""

    central_cysts: bool = False
    """Paraseptal cysts lie in the middle of the lung instead of under the pleura."""
    bronchus_levels: int = 5
    """Generations of bronchi with a wall."""
    interstitial: float = 0.0
    """Subpleural ground glass and lines at the bases, target as a fraction of the lung."""
    opacity_mm: float = 0.0
    """Radius of a ground-glass opacity; 0: none."""
    opacity_lobe: str = ""
    """As in `regions.LOBES`."""


@dataclass(frozen=True)
class SubjectParameters:
    """All that is drawn for one subject."""

    index: int
    seed: int
    person: Person
    disease: Disease
    scanner: Scanner
    findings: Findings = Findings()


def draw(index: int, *, seed: int, spacing_mm: float, dicom: bool = False) -> SubjectParameters:
    """Draw the parameters of subject `index` of the cohort `seed`.

    Severity is spread evenly over the cohort by a golden-ratio sequence, so that a small cohort has the same
    mix as a large one: four in ten with almost no emphysema, the rest from mild to severe. Everything else is
    independent of it, but for hyperinflation (emphysema flattens the diaphragm and adds volume).
    """
    start = random_stream(seed, 0, "cohort").random()
    disease = _disease(
        random_stream(seed, index, "disease"), quantile=(start + index * GOLDEN_RATIO_CONJUGATE) % 1.0
    )
    person = _person(random_stream(seed, index, "person"), disease)
    scanner = _scanner(random_stream(seed, index, "scanner"), spacing_mm=spacing_mm, dicom=dicom)
    return SubjectParameters(index=index, seed=seed, person=person, disease=disease, scanner=scanner)


def _disease(rng: np.random.Generator, *, quantile: float) -> Disease:
    if quantile < 0.4:
        extent = 0.008 * rng.random() ** 2
    else:
        extent = 0.012 + 0.42 * ((quantile - 0.4) / 0.6) ** 1.8
    mixture = rng.dirichlet((1.8, 0.8, 0.8))
    paraseptal = min(0.09, extent * mixture[2])
    rest = (extent - paraseptal) / max(mixture[0] + mixture[1], 1e-6)
    return Disease(
        centrilobular=float(rest * mixture[0]),
        panlobular=float(rest * mixture[1]),
        paraseptal=float(paraseptal),
        hole_mm=float(rng.uniform(2.5, 4.4) + 3.0 * extent),
        zone=float(rng.uniform(1.5, 3.5)),
        nodules=int(min(rng.poisson(0.8), 4)),
        airway=float(rng.normal()),
    )


def _person(rng: np.random.Generator, disease: Disease) -> Person:
    extent = disease.centrilobular + disease.panlobular + disease.paraseptal
    female = rng.random() < 0.47
    size = (0.955 if female else 1.02) * float(np.clip(rng.normal(1.0, 0.03), 0.95, 1.05))
    breath = float(rng.beta(2.0, 2.0))  # 0: full inspiration, 1: well short of it
    tissue = -906.0 + 56.0 * breath
    # Gas is added or missing at constant tissue mass; about half of the change shows in the height of the lungs.
    squeeze = (1 - 0.16 * breath) * (1 + 0.10 * extent / 0.4)
    flat = 1 - 0.55 * min(extent / 0.4, 1.0)
    dome = float(rng.uniform(60, 80)) * size * flat * (1 + 0.15 * breath)
    fat = float(np.clip(rng.gamma(3.0, 6.0), 4, 45))
    return Person(
        age=float(np.clip(rng.normal(63, 8), 45, 85)),
        sex="F" if female else "M",
        height=float(rng.uniform(276, 300)) * size * squeeze,
        half_width=float(rng.uniform(128, 139)) * size,
        half_depth=float(rng.uniform(90, 101)) * size * (1 + 0.08 * extent / 0.4),
        roundness=float(rng.uniform(2.1, 2.5)),
        cap_power=float(rng.uniform(2.1, 2.8)),
        dome_right=dome,
        dome_left=dome * float(rng.uniform(0.82, 0.97)),
        wall_side=24 + 0.7 * fat,
        wall_front=20 + 0.8 * fat,
        wall_back=48 + 0.5 * fat,
        kyphosis=float(rng.uniform(0, 22)),
        heart=_triple(np.array([66.0, 54.0, 64.0]) * size * rng.uniform(0.9, 1.12, 3)),
        heart_shift=float(rng.uniform(14, 26)),
        tissue_hu=tissue,
        gravity_hu=float(rng.uniform(18, 42)),
        contrast_hu=float(rng.uniform(120, 240)) if rng.random() < 0.15 else float(rng.uniform(36, 48)),
        stomach_gas=bool(rng.random() < 0.5),
        warp_mm=float(rng.uniform(2.5, 4.5)),
    )


def _scanner(rng: np.random.Generator, *, spacing_mm: float, dicom: bool) -> Scanner:
    kernel: Kernel = ("soft", "medium", "sharp")[int(rng.choice(3, p=(0.35, 0.4, 0.25)))]
    in_plane = spacing_mm * float(rng.uniform(0.88, 1.12))
    slices = spacing_mm * float(rng.uniform(1.1, 1.4))
    if rng.random() < 0.15:
        oblique = _triple(rng.uniform(-1, 1, 3) * (12, 4, 4))
    else:
        oblique = (0.0, 0.0, 0.0)
    style = int(rng.choice(5, p=(0.35, 0.25, 0.2, 0.1, 0.1)))
    axes, flips = (
        ((0, 1, 2), (False, False, False)),  # LPS
        ((0, 1, 2), (True, True, False)),  # RAS
        ((0, 1, 2), (False, False, True)),  # LPI: slices from head to foot
        ((0, 2, 1), (False, True, False)),  # coronal slices
        ((1, 2, 0), (False, True, True)),  # sagittal slices
    )[style]
    if dicom and style > 2:  # axial slices, as scanners write them
        axes, flips = (0, 1, 2), (False, False, False)
    return Scanner(
        spacing=(in_plane, in_plane, slices),
        kernel=kernel,
        noise_hu=float(rng.uniform(11, 22)) * KERNEL_NOISE[kernel],
        offset_hu=float(rng.normal(0, 6)),
        padding_hu=int(rng.choice(PADDING_VALUES_HU)),
        pose_deg=_triple(np.clip(rng.normal(0, (2.0, 2.0, 3.0)), -6, 6)),
        shift_mm=_triple(rng.uniform(-1, 1, 3) * (8, 6, 250)),
        oblique_deg=oblique,
        axes=axes,
        flips=flips,
        margin_top=float(rng.uniform(16, 26)),
        margin_bottom=float(rng.uniform(16, 32)),
        table_drop=float(rng.uniform(4, 12)),
        manufacturer=("Phantom A", "Phantom B", "Phantom C")[int(rng.integers(3))],
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
