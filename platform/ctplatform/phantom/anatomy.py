"""The chest as signed distances on the coarse grid (mm, positive inside), and the bones and airways as capsules."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ctplatform.phantom.grid import COARSE_MM, Frame
from ctplatform.phantom.parameters import Person

SOFTNESS_MM = 4.0
MUSCLE, FAT, LIVER, SPLEEN, MARROW, CORTEX, CARTILAGE = 52.0, -98.0, 58.0, 50.0, 190.0, 520.0, 95.0
CARINA = 0.62
"""Height of the tracheal bifurcation as a fraction of the lungs' height."""


@dataclass(frozen=True)
class Shapes:
    """Signed distances on the coarse grid, z, y, x."""

    body: np.ndarray
    muscle: np.ndarray
    abdomen: np.ndarray
    heart: np.ndarray
    lungs: np.ndarray
    side: np.ndarray
    """Body x: negative on the patient's right."""
    fissures: np.ndarray
    """Distance to the nearest of the planes between the lobes."""
    oblique: np.ndarray
    """Distance to the oblique fissure, positive above it."""
    horizontal: np.ndarray
    """Distance to the plane of the right lung's horizontal fissure, positive above it."""
    stomach: np.ndarray | None


@dataclass(frozen=True)
class Tube:
    """One capsule in the scan frame, mm."""

    start: np.ndarray
    end: np.ndarray
    radius: float
    hu: float


def shapes(person: Person, frame: Frame) -> Shapes:
    """Evaluate all shapes of a person."""
    x, y, z = frame.body_coordinates()
    p = person
    y = y - p.kyphosis * ((z / p.height - 0.5) ** 2 * 2 - 0.3)
    up = np.clip((z - _cap_start(p)) / (p.height - _cap_start(p)), 0, 2)
    n = p.roundness
    rho = (np.abs(x / p.half_width) ** n + np.abs(y / p.half_depth) ** n + up**p.cap_power) ** (1 / n)
    thorax = (1 - rho) * (p.half_depth - 10)
    heart = _ellipsoid(
        x - p.heart_shift - 0.18 * (y + 28), y + 0.27 * p.half_depth, z - 0.34 * p.height, p.heart
    )
    back = p.half_depth - 6
    spine = 25 - np.hypot(x, y - back - 2)
    aorta = 15 - np.hypot(x - 20, y - back + 26)
    aorta = np.where(z < 0.70 * p.height, aorta, -50.0)
    level = z / p.height
    middle = 13 + 21 * np.exp(-(((y - 4) / 34) ** 2)) * (1 - 0.35 * np.clip((level - 0.7) / 0.3, 0, 1))
    diaphragm = _diaphragm(p, x, y, z)
    # Heart, vessels and spine each limit the lung beside them; the soft minimum rounds the corners.
    lungs = _distance(_soft_minimum(thorax, np.abs(x) - middle, diaphragm, -heart - 2, -spine, -aorta))
    wall_y = (p.wall_back - p.wall_front) / 2
    body_rho = (
        np.abs(x / (p.half_width + p.wall_side)) ** 2.4
        + np.abs((y - wall_y) / (p.half_depth + (p.wall_back + p.wall_front) / 2)) ** 2.4
    ) ** (1 / 2.4)
    # Towards the neck the front of the chest slopes back.
    slope = 90 * np.clip(level - 0.72, 0, 1) ** 1.5 * np.clip(-y / p.half_depth, 0, 1)
    body = np.maximum((1 - body_rho) * (p.half_depth + 25) - slope, lungs + 22)
    if p.sex == "F":
        for side in (-1, 1):
            breast = _ellipsoid(
                x - side * 0.55 * p.half_width,
                y + p.half_depth + 0.78 * p.wall_front - 0.0018 * (x - side * 0.55 * p.half_width) ** 2,
                z - 0.45 * p.height,
                (74.0, 14.0 + 0.45 * p.wall_front, 80.0),
            )
            body = np.maximum(body, breast)
    erector = np.maximum(
        22 - np.hypot((x - 34) * 0.75, y - back - 26), 22 - np.hypot((x + 34) * 0.75, y - back - 26)
    )
    muscle = np.maximum(thorax + 15 + 9 * np.clip(level, 0, 1), erector)
    stomach = None
    if p.stomach_gas:
        # Under the left dome, with the stomach's wall and the diaphragm (8 mm and more) above it.
        top = _dome(p, 0.50 * p.half_width, -0.1 * p.half_depth) - 8
        gas = _ellipsoid(x - 0.50 * p.half_width, y + 0.25 * p.half_depth, z - top + 22, (34.0, 24.0, 20.0))
        stomach = np.minimum(gas, -diaphragm - 7)
    # From high at the back to low in front: the lower lobe lies behind and below.
    oblique = ((z - 0.45 * p.height) - 0.85 * y + 0.0004 * y**2) * 0.76
    horizontal = z - 0.47 * p.height - 0.05 * x
    return Shapes(
        body=_distance(body),
        muscle=muscle,
        abdomen=np.minimum(thorax + 2, -diaphragm),
        heart=heart,
        lungs=lungs,
        side=x,
        fissures=np.minimum(np.abs(oblique), np.where((x < 0) & (y < 0), np.abs(horizontal), 99.0)),
        oblique=oblique,
        horizontal=horizontal,
        stomach=stomach,
    )


def bones(person: Person, frame: Frame) -> list[Tube]:
    """Ribs with their cartilage, spine, sternum, clavicles and scapulae."""
    p = person
    tubes: list[Tube] = []
    for k in range(11):
        level = 0.99 - 0.094 * k
        drop = (0.13 + 0.018 * k) * p.height
        turn = np.linspace(0.11, 0.90, 17) * np.pi
        z = level * p.height - drop * (turn / np.pi) ** 1.2
        scale = _section(p, z) * (1 if k > 1 else 0.9)
        for side in (-1.0, 1.0):
            path = np.stack(
                [
                    side * np.sin(turn) ** 0.9 * (p.half_width * scale + 8),
                    np.cos(turn) * (p.half_depth * scale + 8) + _bend(p, z),
                    z,
                ],
                axis=1,
            )
            hard = 15 if k < 8 else 12
            tubes += _chain(frame, path[: hard + 1], radius=5.4, hu=CORTEX)
            tubes += _chain(frame, path[: hard + 1], radius=3.2, hu=MARROW)
            if k < 8:
                tubes += _chain(frame, path[hard:], radius=5.0, hu=CARTILAGE)
    back = p.half_depth - 2
    for z0 in np.arange(-60.0, p.height + 60, 25.0):
        bend = float(_bend(p, np.array(z0 + 10)))
        here = np.array([0.0, back + bend, z0])
        top = here + (0, 0, 18)
        tubes += _chain(frame, np.array([here, top]), radius=17.5, hu=330)
        tubes += _chain(frame, np.array([here, top]), radius=15.5, hu=MARROW)
        tubes += _chain(frame, np.array([top, top + (0, 0, 7)]), radius=15.5, hu=80)
        arch = here + (0, 30, 6)
        tubes += _chain(frame, np.array([arch, arch + (0, 20, -14)]), radius=4.5, hu=CORTEX)
        for side in (-1, 1):
            tubes += _chain(
                frame,
                np.array([here + (side * 10, 16, 8), arch + (side * 8, -2, 0), arch]),
                radius=4.5,
                hu=CORTEX,
            )
            tubes += _chain(
                frame,
                np.array([here + (side * 12, 20, 8), here + (side * 32, 27, 12)]),
                radius=4.5,
                hu=CORTEX,
            )
    tubes += _chain(
        frame, np.array([[0, back + 17, -60.0], [0, back + 17, p.height + 60]]), radius=7, hu=15
    )  # spinal canal
    front = np.array([0.82, 0.55, 0.32]) * p.height
    sternum = np.stack(
        [np.zeros(3), -(p.half_depth * _section(p, front) + 5) + _bend(p, front), front], axis=1
    )
    for side in (-8, 8):
        tubes += _chain(frame, sternum + (side, 0, 0), radius=6.5, hu=240)
        joint = sternum[0] + (2 * side, -2, 8)
        tubes += _chain(
            frame,
            np.array([joint, joint + (side * 9, 25, 22), joint + (side * 17, 55, 22)]),
            radius=6,
            hu=CORTEX,
        )
        blade = np.array([side / 8 * 0.62 * p.half_width, p.half_depth + 14, 0.95 * p.height])
        for fan in (-30, -10, 10, 30):
            tubes += _chain(
                frame,
                np.array([blade + (side * 3, -18, 10), blade + (fan * 0.5, 0, -55 + fan)]),
                radius=3.2,
                hu=CORTEX,
            )
    return tubes


def great_vessels(person: Person, frame: Frame) -> list[Tube]:
    """Aorta, pulmonary trunk with its two branches, and superior vena cava, filled with blood."""
    p = person
    h, back = p.height, p.half_depth - 6
    arch = [
        (6, -28, 0.50),
        (2, -24, 0.68),
        (8, -8, 0.75),
        (18, 14, 0.74),
        (20, back - 26, 0.66),
        (20, back - 26, -0.3),
    ]
    trunk = [(22, -34, 0.46), (20, -18, 0.57), (24, -4, 0.585)]
    cava = [(-24, -12, 0.42), (-25, -18, 0.7), (-22, -22, 1.0), (-24, -22, 1.2)]
    neck = [(10, -12, 0.75), (16, -10, 1.0), (18, -4, 1.25)]
    right = [(20, -16, 0.57), (0, -6, 0.575), (-30, 0, 0.56)]
    left = [(20, -16, 0.57), (36, 4, 0.57)]
    tubes: list[Tube] = []
    for path, radius in ((arch, 14.0), (trunk, 14.0), (cava, 9.0), (neck, 6.0), (right, 10.0), (left, 10.5)):
        points = np.array([(x, y, level * h) for x, y, level in path], float)
        tubes += _chain(frame, points, radius=radius, hu=person.contrast_hu)
    return tubes


def central_airways(person: Person, frame: Frame) -> tuple[list[Tube], dict[str, np.ndarray]]:
    """Lumen of trachea and main bronchi; and where the bronchi enter the lungs, by side, scan frame."""
    h = person.height
    radius = 8.6 if person.sex == "M" else 7.5
    carina = (2.0, 6.0, CARINA * h)
    windpipe = np.array([carina, (1, 0, 0.85 * h), (0, -8, 1.05 * h), (0, -14, 1.4 * h)])
    right = np.array([carina, (-18, 9, (CARINA - 0.055) * h), (-37, 10, (CARINA - 0.09) * h)])
    left = np.array([carina, (20, 10, (CARINA - 0.07) * h), (41, 14, (CARINA - 0.12) * h)])
    tubes = _chain(frame, windpipe, radius=radius, hu=-995)
    tubes += _chain(frame, right, radius=0.80 * radius, hu=-990)
    tubes += _chain(frame, left, radius=0.70 * radius, hu=-990)
    return tubes, {"right": frame.to_scan(right[-1:])[0], "left": frame.to_scan(left[-1:])[0]}


def _cap_start(p: Person) -> float:
    return 0.42 * p.height


def _section(p: Person, z: np.ndarray) -> np.ndarray:
    """Size of the thorax' cross-section at a height, 1 at its widest."""
    up = np.clip((z - _cap_start(p)) / (p.height - _cap_start(p)), 0, 0.995)
    return np.maximum((1 - up**p.cap_power) ** (1 / p.roundness), 0.42)


def _bend(p: Person, z: np.ndarray) -> np.ndarray:
    return p.kyphosis * ((z / p.height - 0.5) ** 2 * 2 - 0.3)


def _dome(p: Person, x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    """Height of the diaphragm; the lowest recess is near 0."""
    right = np.asarray(x) < 0
    rise = np.where(right, p.dome_right, p.dome_left)
    middle = np.where(right, -0.50, 0.52) * p.half_width
    spread = ((x - middle) / (0.60 * p.half_width)) ** 2 + (
        (y + 0.08 * p.half_depth) / (0.93 * p.half_depth)
    ) ** 2
    height: np.ndarray = (
        14 + 0.30 * rise + rise * (1 - np.minimum(spread, 1.45)) - 12 * np.asarray(y) / p.half_depth
    )
    return height


def _diaphragm(p: Person, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    above: np.ndarray = (z - _dome(p, x, y)) * 0.75
    return above


def _ellipsoid(x: np.ndarray, y: np.ndarray, z: np.ndarray, axes: tuple[float, float, float]) -> np.ndarray:
    rho = np.sqrt((x / axes[0]) ** 2 + (y / axes[1]) ** 2 + (z / axes[2]) ** 2)
    return (1 - rho) * min(axes)


def _distance(field: np.ndarray) -> np.ndarray:
    """Scale an implicit function so that it grows by 1 a mm near its surface."""
    slope = np.sqrt(sum(g * g for g in np.gradient(field, COARSE_MM)))
    distance: np.ndarray = (field / np.clip(slope, 0.4, 1.6)).astype(np.float32)
    return distance


def _soft_minimum(*fields: np.ndarray) -> np.ndarray:
    total = np.zeros_like(fields[0])
    for field in fields:
        total += np.exp(np.clip(field, -200, 200) * np.float32(-1 / SOFTNESS_MM))
    minimum: np.ndarray = (np.float32(-SOFTNESS_MM) * np.log(total)).astype(np.float32)
    return minimum


def _chain(frame: Frame, points_N3: np.ndarray, *, radius: float, hu: float) -> list[Tube]:
    path = frame.to_scan(np.asarray(points_N3, float))
    return [Tube(a, b, radius, hu) for a, b in pairwise(path)]
