"""One phantom subject: from the draw to the image in HU, the masks and the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from ctplatform.phantom import anatomy, disease, texture
from ctplatform.phantom.drawing import capsule, coverage, paint, splat
from ctplatform.phantom.grid import Box, Frame, resample, rotation
from ctplatform.phantom.labels import Truth, clinical
from ctplatform.phantom.person import KERNEL_SIGMA_MM, Draw, Person, Scanner, draw, stream
from ctplatform.phantom.trees import Tree, beads, grow

if TYPE_CHECKING:
    from ctplatform.config import PhantomConfig

RIGHT, LEFT = 50, 100
AIR_HU = -1000.0
VESSEL_LEVELS = 10
BRONCHUS_LEVELS = 5


@dataclass(frozen=True)
class PhantomSubject:
    """A synthetic scan and everything that is known about it.

    Attributes:
        scan_id, subject_id: names, unique in the cohort.
        image: int16 HU; axes, direction and padding as drawn.
        lungs: uint8 on the same grid: 50 patient's right, 100 patient's left, vessels and airways of the lung included.
        disease: uint8 bits on the same grid: 1 centrilobular, 2 panlobular, 4 paraseptal, 8 nodule.
        labels: the clinical labels and true extents, one value a cohort column.
        draw: all parameters.
    """

    scan_id: str
    subject_id: str
    image: sitk.Image
    lungs: sitk.Image
    disease: sitk.Image
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
    frame = _frame(drawn)
    forms = anatomy.shapes(drawn.person, frame)
    box = _field_of_view(drawn.scanner, frame, forms)
    tissue, lung_mask, bits = _render(drawn, frame, forms, box)
    volume = _scan(tissue, drawn, box)
    extents = {bit: float(np.mean((bits[lung_mask > 0] & bit) > 0)) for bit in (1, 2, 4)}
    emphysema = float(np.mean((bits[lung_mask > 0] & 7) > 0))
    truth = Truth(
        emphysema=emphysema,
        centrilobular=extents[1],
        panlobular=extents[2],
        paraseptal=extents[4],
        nodules=drawn.disease.nodules,
        airway=drawn.disease.airway,
        age=drawn.person.age,
        sex=drawn.person.sex,
    )
    return PhantomSubject(
        scan_id=f"phantom-{index:04d}",
        subject_id=f"P{index:04d}",
        image=_to_image(volume, box, drawn.scanner),
        lungs=_to_image(lung_mask, box, drawn.scanner),
        disease=_to_image(bits, box, drawn.scanner),
        labels=clinical(truth, rng=stream(config.seed, index, "labels")),
        draw=drawn,
    )


def is_dicom(index: int, config: PhantomConfig) -> bool:
    """Whether this subject is written as a DICOM series."""
    return config.dicom_every > 0 and index % config.dicom_every == config.dicom_every - 1


def _frame(drawn: Draw) -> Frame:
    person, scanner = drawn.person, drawn.scanner
    pose = rotation(scanner.pose_deg).T @ rotation(scanner.oblique_deg)
    middle = np.array([0.0, 0.12 * person.half_depth, 0.5 * person.height])
    reach = (
        person.half_width + person.wall_side + 45,
        person.half_depth + person.wall_back + 40,
        person.height / 2 + 75,
    )
    rng = stream(drawn.seed, drawn.index, "warp")
    return Frame.lay(turn=pose, offset=middle, reach=reach, warp_mm=person.warp_mm, rng=rng)


def _field_of_view(scanner: Scanner, frame: Frame, forms: anatomy.Shapes) -> Box:
    """The scan's grid: around the lungs with margins in z, around the body in the plane."""
    coarse = frame.coarse
    lungs_z = coarse.axis(2)[np.flatnonzero((forms.lungs > 0).any(axis=(1, 2)))]
    low, high = float(lungs_z[0]) - scanner.margin_bottom, float(lungs_z[-1]) + scanner.margin_top
    slab = forms.body[(coarse.axis(2) >= low) & (coarse.axis(2) <= high)] > 0
    x = coarse.axis(0)[np.flatnonzero(slab.any(axis=(0, 1)))]
    y = coarse.axis(1)[np.flatnonzero(slab.any(axis=(0, 2)))]
    start = np.array([float(x[0]) - 12, float(y[0]) - 14, low])
    end = np.array([float(x[-1]) + 12, float(y[-1]) + 30, high])
    spacing = np.array(scanner.spacing)
    return Box(start, spacing, np.ceil((end - start) / spacing).astype(int) + 1)


def _render(
    drawn: Draw, frame: Frame, forms: anatomy.Shapes, box: Box
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise-free HU, lung labels and disease bits on the scan's grid."""
    person = drawn.person
    edge = float(box.spacing.mean())
    hu = _soft_tissue(person, frame, forms, box)
    within, where = _lung_box(frame, forms, box)
    lung_mm = resample(forms.lungs, frame.coarse, within)
    lung_alpha = coverage(lung_mm, edge)
    inside = lung_mm > 0
    side = resample(forms.side.astype(np.float32), frame.coarse, within)
    mask = np.zeros(box.shape, np.uint8)
    mask[where] = np.where(inside, np.where(side < 0, np.uint8(RIGHT), np.uint8(LEFT)), np.uint8(0))

    rng = stream(drawn.seed, drawn.index, "texture")
    sigma = KERNEL_SIGMA_MM[drawn.scanner.kernel]
    lung_hu = texture.parenchyma(
        within, person=person, depth_mm=frame.depth_on(within), kernel_sigma_mm=sigma, rng=rng
    )
    airways, hila = anatomy.central_airways(person, frame)
    vessels, bronchi = _trees(drawn, frame, forms, within, hila)
    lesions = disease.place(
        within,
        disease=drawn.disease,
        person=person,
        frame=frame,
        lungs=forms.lungs,
        rng=stream(drawn.seed, drawn.index, "lesions"),
    )
    fissures = resample(forms.fissures.astype(np.float32), frame.coarse, within)
    lung_hu += np.float32(85) * np.clip(1 - np.abs(fissures) / np.float32(0.9 * edge), 0, 1)
    disease.apply(lung_hu, vessels, lesions)
    lung_hu += vessels * (np.float32(person.contrast_hu - 5) - lung_hu)
    lung_hu += lesions.nodules * (np.float32(lesions.nodule_hu) - lung_hu)
    view = hu[where]
    view += lung_alpha * (lung_hu - view)

    bits = np.zeros(box.shape, np.uint8)
    bits[where] = disease.truth(lesions, inside)
    thickness = 1.15 * float(np.exp(0.22 * drawn.disease.airway))
    for tube in airways:
        _draw(hu, box, tube, grow_mm=1.4, value=20.0)
    for tube in bronchi:
        _draw(hu, box, tube, grow_mm=thickness * (0.45 + 0.25 * tube.radius), value=-20.0)
    for tube in [*airways, *bronchi]:
        _draw(hu, box, tube)
    return hu, mask, bits


def _soft_tissue(person: Person, frame: Frame, forms: anatomy.Shapes, box: Box) -> np.ndarray:
    """Body without lungs: fat, muscle, organs, bones, large vessels."""
    edge = float(box.spacing.mean())

    def cover(field: np.ndarray) -> np.ndarray:
        return coverage(resample(field.astype(np.float32), frame.coarse, box), edge)

    # Soft tissues differ by little: the coarse grid is sharp enough for them, the skin and the gas are drawn sharply.
    soft = np.full(forms.body.shape, anatomy.FAT, np.float32)
    paint(soft, np.s_[:, :, :], coverage(forms.muscle, 3.0), anatomy.MUSCLE)
    organ = np.where(forms.side < 25, anatomy.LIVER, anatomy.SPLEEN).astype(np.float32)
    soft += coverage(forms.abdomen, 4.0) * (organ - soft)
    paint(soft, np.s_[:, :, :], coverage(forms.heart, 4.0), person.contrast_hu)
    hu = resample(soft, frame.coarse, box)
    for tube in anatomy.great_vessels(person, frame):
        _draw(hu, box, tube)
    for tube in anatomy.bones(person, frame):
        _draw(hu, box, tube)
    hu += (1 - cover(forms.body)) * (np.float32(AIR_HU) - hu)
    if forms.stomach is not None:
        hu += cover(forms.stomach) * (np.float32(-985) - hu)
    return hu


def _lung_box(frame: Frame, forms: anatomy.Shapes, box: Box) -> tuple[Box, tuple[slice, slice, slice]]:
    cells = np.argwhere(forms.lungs > -frame.coarse.spacing[0])[:, ::-1]
    low = frame.coarse.start + cells.min(axis=0) * frame.coarse.spacing
    high = frame.coarse.start + cells.max(axis=0) * frame.coarse.spacing
    return box.part(low, high)


def _trees(
    drawn: Draw, frame: Frame, forms: anatomy.Shapes, within: Box, hila: dict[str, np.ndarray]
) -> tuple[np.ndarray, list[anatomy.Tube]]:
    """Vessel coverage on the lungs' box, and the bronchi as tubes, each with an artery beside it."""
    rng = stream(drawn.seed, drawn.index, "trees")
    coarse, edge = frame.coarse, float(within.spacing.mean())
    vessels = np.zeros(within.shape, np.float32)
    bronchi: list[anatomy.Tube] = []
    threads: list[tuple[np.ndarray, np.ndarray]] = []
    for name, sign in (("right", -1), ("left", 1)):
        cells = np.argwhere((forms.lungs > 3) & (forms.side * sign > 0))[:, ::-1]
        hilum = hila[name]
        aside = frame.to_scan(np.array([[0, 0, 0], [4.0 * sign, -9, 5], [3.0 * sign, -10, -22]]))
        for kind, shift, calibre in (
            ("artery", aside[1] - aside[0], 5.6),
            ("vein", aside[2] - aside[0], 5.2),
        ):
            pick = rng.integers(len(cells), size=2**VESSEL_LEVELS)
            points = coarse.start + (cells[pick] + rng.uniform(-0.5, 0.5, (len(pick), 3))) * coarse.spacing
            tree = grow(hilum + shift, points, levels=VESSEL_LEVELS, radius=calibre, rng=rng)
            thick = tree.radius_N > 0.75 * edge
            for a, b, r in zip(tree.start_N3[thick], tree.end_N3[thick], tree.radius_N[thick]):
                drawn_part = capsule(within, a, b, radius=float(r), end_radius=0.85 * float(r))
                if drawn_part is not None:
                    where, alpha = drawn_part
                    np.maximum(vessels[where], alpha, out=vessels[where])
            thin = Tree(
                tree.start_N3[~thick], tree.end_N3[~thick], tree.radius_N[~thick], tree.level_N[~thick]
            )
            threads.append(beads(thin, spacing=0.6 * edge, rng=rng))
            if kind == "artery":
                keep = tree.level_N < BRONCHUS_LEVELS
                for a, b, r in zip(tree.start_N3[keep], tree.end_N3[keep], tree.radius_N[keep]):
                    bronchi.append(anatomy.Tube(a - shift, b - shift * 0.75, 0.72 * float(r), -975.0))
    points = np.concatenate([p for p, _ in threads])
    volume = np.concatenate([v for _, v in threads])
    np.maximum(vessels, np.minimum(splat(within, points, volume), 1), out=vessels)
    return vessels, bronchi


def _draw(
    hu: np.ndarray, box: Box, tube: anatomy.Tube, *, grow_mm: float = 0.0, value: float | None = None
) -> None:
    part = capsule(box, tube.start, tube.end, radius=tube.radius + grow_mm)
    if part is not None:
        where, alpha = part
        paint(hu, where, alpha, tube.hu if value is None else value)


def _scan(hu: np.ndarray, drawn: Draw, box: Box) -> np.ndarray:
    """Table, noise, calibration and the padding outside of the circular field of view; int16."""
    scanner = drawn.scanner
    rng = stream(drawn.seed, drawn.index, "noise")
    _lay_on_table(hu, scanner, box)
    hu += texture.noise(box, scanner=scanner, sigma_mm=KERNEL_SIGMA_MM[scanner.kernel], rng=rng)
    hu += np.float32(scanner.offset_hu)
    np.clip(hu, -1024, 3071, out=hu)
    volume = np.rint(hu).astype(np.int16)
    x, y = box.axis(0), box.axis(1)
    radius = max(np.ptp(x), np.ptp(y)) / 2 + 1
    outside = np.hypot(x[None] - x.mean(), y[:, None] - y.mean()) > radius
    volume[:, outside] = scanner.padding_hu
    return volume


def _lay_on_table(hu: np.ndarray, scanner: Scanner, box: Box) -> None:
    """A curved carbon shell filled with foam, below the back; it lies level in the room, the image axes may not."""
    room = rotation(scanner.oblique_deg)
    body_end = np.flatnonzero((hu > -400).any(axis=(0, 2)))
    drop = float(box.axis(1)[body_end[-1]]) + 3.0
    rows = slice(max(0, int((drop - 45 - box.start[1]) / box.spacing[1])), hu.shape[1])
    part = Box(
        box.start + np.array([0, rows.start * box.spacing[1], 0]),
        box.spacing,
        np.array([box.size[0], rows.stop - rows.start, box.size[2]]),
    )
    x = part.linear(room[0])
    depth = part.linear(room[1]) - (np.float32(drop) - x**2 * np.float32(0.0011))
    edge = float(box.spacing.mean())
    width = coverage(200 - np.abs(x), edge)
    view = hu[:, rows]
    outside = view < -500
    foam = coverage(8.0 - np.abs(depth - 9), edge) * width * outside
    view += foam * (np.float32(-930) - view)
    for at in (1.0, 17.0):
        skin = coverage(0.8 - np.abs(depth - at), edge) * width * outside
        view += skin * (np.float32(-250) - view)


def _to_image(array: np.ndarray, box: Box, scanner: Scanner) -> sitk.Image:
    """Wrap an array into an image whose axes run as the scanner wrote them; every voxel keeps its place in the room."""
    room = rotation(scanner.oblique_deg)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(float(s) for s in box.spacing))
    image.SetDirection(tuple(room.ravel()))
    image.SetOrigin(tuple(float(v) for v in room @ box.start + np.array(scanner.shift_mm)))
    image = sitk.PermuteAxes(image, list(scanner.axes))
    return sitk.Flip(image, list(scanner.flips), False) if any(scanner.flips) else image
