"""Anatomy and disease of a subject as a scene that is rendered on any grid: a whole scan, or a fine piece of lung."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ctplatform.imaging.hounsfield import AIR_HU
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.phantom import anatomy, disease, findings, regions, texture
from ctplatform.phantom.drawing import capsule, coverage, paint, splat
from ctplatform.phantom.grid import Box, Frame, resample, rotation
from ctplatform.phantom.parameters import KERNEL_SIGMA_MM, SubjectParameters, random_stream
from ctplatform.phantom.trees import grow, points_along
from ctplatform.phantom.variation import wall_mm

VESSEL_LEVELS = 11
ARTERY_MM, VEIN_MM = 4.6, 4.3
"""Radii at the hilum."""


@dataclass(frozen=True)
class Rendered:
    """A scene on a grid, z, y, x."""

    hu: np.ndarray
    """float32, without noise."""
    lungs: np.ndarray
    """uint8: 50 patient's right, 100 patient's left."""
    disease: np.ndarray
    """uint8 bits, see `disease`."""
    lobes: np.ndarray
    """uint8, see `regions.LOBES`."""


@dataclass(frozen=True)
class Scene:
    """Shapes of a subject in its pose."""

    parameters: SubjectParameters
    frame: Frame
    shapes: anatomy.Shapes

    @classmethod
    def build(cls, parameters: SubjectParameters) -> Scene:
        """Pose the body and evaluate its shapes on the coarse grid."""
        person, scanner = parameters.person, parameters.scanner
        frame = Frame.posed(
            turn=rotation(scanner.pose_deg).T @ rotation(scanner.oblique_deg),
            offset=np.array([0.0, 0.12 * person.half_depth, 0.5 * person.height]),
            reach=(
                person.half_width + person.wall_side + 45,
                person.half_depth + person.wall_back + 40,
                person.height / 2 + 75,
            ),
            warp_mm=person.warp_mm,
            rng=random_stream(parameters.seed, parameters.index, "warp"),
        )
        return cls(parameters, frame, anatomy.shapes(person, frame))

    def field_of_view(self) -> Box:
        """The scan's grid: around the lungs with margins in z, around the body in the plane."""
        coarse, scanner = self.frame.coarse, self.parameters.scanner
        lungs_z = coarse.axis(2)[np.flatnonzero((self.shapes.lungs > 0).any(axis=(1, 2)))]
        low, high = float(lungs_z[0]) - scanner.margin_bottom, float(lungs_z[-1]) + scanner.margin_top
        slab = self.shapes.body[(coarse.axis(2) >= low) & (coarse.axis(2) <= high)] > 0
        x = coarse.axis(0)[np.flatnonzero(slab.any(axis=(0, 1)))]
        y = coarse.axis(1)[np.flatnonzero(slab.any(axis=(0, 2)))]
        start = np.array([float(x[0]) - 12, float(y[0]) - 14, low])
        end = np.array([float(x[-1]) + 12, float(y[-1]) + 30, high])
        spacing = np.array(scanner.spacing)
        return Box(start, spacing, np.ceil((end - start) / spacing).astype(int) + 1)

    def render(self, box: Box) -> Rendered:
        """Render on a grid; on another grid, the same scene has the same anatomy and disease."""
        parameters, person, frame = self.parameters, self.parameters.person, self.frame
        edge = float(box.spacing.mean())
        hu = self._soft_tissue(box)
        within, where = self._around_lungs(box)
        lung_mm = resample(self.shapes.lungs, frame.coarse, within)
        lung_alpha = coverage(lung_mm, edge)
        inside = lung_mm > 0
        side = resample(self.shapes.side, frame.coarse, within)
        mask = np.zeros(box.shape, np.uint8)
        mask[where] = np.where(inside, np.where(side < 0, np.uint8(RIGHT), np.uint8(LEFT)), np.uint8(0))

        lung_hu, fine = texture.parenchyma(
            within,
            person=person,
            depth_mm=frame.depth_on(within),
            kernel_sigma_mm=KERNEL_SIGMA_MM[parameters.scanner.kernel],
            rng=random_stream(parameters.seed, parameters.index, "texture"),
        )
        fissures = resample(self.shapes.fissures, frame.coarse, within)
        fine += np.float32(85) * np.clip(1 - np.abs(fissures) / np.float32(0.9 * edge), 0, 1)
        airways, hila = anatomy.central_airways(person, frame)
        vessels, bronchi = self._trees(within, hila)
        lesions = disease.place(
            within,
            disease=parameters.disease,
            person=person,
            frame=frame,
            lungs=self.shapes.lungs,
            rng=random_stream(parameters.seed, parameters.index, "lesions"),
            central_cysts=parameters.findings.central_cysts,
        )
        disease.apply(lung_hu, fine, vessels, lesions)
        extra = findings.place(within, parameters=parameters, frame=frame, shapes=self.shapes)
        findings.apply(lung_hu, extra)
        lung_hu += vessels * (np.float32(person.contrast_hu - 5) - lung_hu)
        lung_hu += lesions.nodules * (np.float32(lesions.nodule_hu) - lung_hu)
        view = hu[where]
        view += lung_alpha * (lung_hu - view)
        bits = np.zeros(box.shape, np.uint8)
        bits[where] = disease.truth(lesions, inside) | findings.truth(extra, inside)
        lobes = np.zeros(box.shape, np.uint8)
        lobes[where] = regions.lobes(
            inside,
            right=side < 0,
            oblique_mm=resample(self.shapes.oblique, frame.coarse, within),
            horizontal_mm=resample(self.shapes.horizontal, frame.coarse, within),
        )

        for tube in airways:
            paint_tube(hu, box, tube, grow_mm=1.4, value=20.0)
        for tube in bronchi:
            wall = wall_mm(parameters.disease.airway, tube.radius)
            paint_tube(hu, box, tube, grow_mm=wall, value=-60.0)
        for tube in [*airways, *bronchi]:
            paint_tube(hu, box, tube)
        return Rendered(hu, mask, bits, lobes)

    def _soft_tissue(self, box: Box) -> np.ndarray:
        """Body without lungs: fat, muscle, organs, bones, large vessels."""
        shapes, person, frame = self.shapes, self.parameters.person, self.frame
        edge = float(box.spacing.mean())

        def cover(field: np.ndarray) -> np.ndarray:
            return coverage(resample(field, frame.coarse, box), edge)

        # Soft tissues differ by little: the coarse grid is sharp enough for them, but not for skin and gas.
        soft = np.full(shapes.body.shape, anatomy.FAT, np.float32)
        soft += coverage(shapes.muscle, 3.0) * (np.float32(anatomy.MUSCLE) - soft)
        organ = np.where(shapes.side < 25, np.float32(anatomy.LIVER), np.float32(anatomy.SPLEEN))
        soft += coverage(shapes.abdomen, 4.0) * (organ - soft)
        soft += coverage(shapes.heart, 4.0) * (np.float32(person.contrast_hu) - soft)
        hu = resample(soft, frame.coarse, box)
        for tube in [*anatomy.great_vessels(person, frame), *anatomy.bones(person, frame)]:
            paint_tube(hu, box, tube)
        hu += (1 - cover(shapes.body)) * (np.float32(AIR_HU) - hu)
        if shapes.stomach is not None:
            hu += cover(shapes.stomach) * (np.float32(-985) - hu)
        return hu

    def _around_lungs(self, box: Box) -> tuple[Box, tuple[slice, slice, slice]]:
        coarse = self.frame.coarse
        cells = np.argwhere(self.shapes.lungs > -coarse.spacing[0])[:, ::-1]
        return box.part(
            coarse.start + cells.min(axis=0) * coarse.spacing,
            coarse.start + cells.max(axis=0) * coarse.spacing,
        )

    def _trees(self, within: Box, hila: dict[str, np.ndarray]) -> tuple[np.ndarray, list[anatomy.Tube]]:
        """Vessel coverage on the lungs' box, and the bronchi as tubes, each with an artery beside it."""
        rng = random_stream(self.parameters.seed, self.parameters.index, "trees")
        coarse, edge = self.frame.coarse, float(within.spacing.mean())
        vessels = np.zeros(within.shape, np.float32)
        bronchi: list[anatomy.Tube] = []
        thin: list[tuple[np.ndarray, np.ndarray]] = []
        for name, sign in (("right", -1), ("left", 1)):
            cells = np.argwhere((self.shapes.lungs > 1) & (self.shapes.side * sign > 0))[:, ::-1]
            hila_of_kinds = self.frame.to_scan(
                np.array([[0, 0, 0], [4.0 * sign, -9, 5], [3.0 * sign, -10, -22]])
            )
            for kind, shift, calibre in (
                ("artery", hila_of_kinds[1] - hila_of_kinds[0], ARTERY_MM),
                ("vein", hila_of_kinds[2] - hila_of_kinds[0], VEIN_MM),
            ):
                pick = rng.integers(len(cells), size=2**VESSEL_LEVELS)
                points = (
                    coarse.start + (cells[pick] + rng.uniform(-0.5, 0.5, (len(pick), 3))) * coarse.spacing
                )
                tree = grow(hila[name] + shift, points, levels=VESSEL_LEVELS, radius=calibre, rng=rng)
                thick = tree.radius_N > 0.6 * edge
                for a, b, r in zip(tree.start_N3[thick], tree.end_N3[thick], tree.radius_N[thick]):
                    part = capsule(within, a, b, radius=float(r), end_radius=0.85 * float(r))
                    if part is not None:
                        np.maximum(vessels[part[0]], part[1], out=vessels[part[0]])
                thin.append(points_along(tree, ~thick, spacing=0.6 * edge, rng=rng))
                if kind == "artery":
                    keep = tree.level_N < self.parameters.findings.bronchus_levels
                    for a, b, r in zip(tree.start_N3[keep], tree.end_N3[keep], tree.radius_N[keep]):
                        bronchi.append(anatomy.Tube(a - shift, b - shift * 0.75, 0.72 * float(r), -975.0))
        points = np.concatenate([p for p, _ in thin])
        volume = np.concatenate([v for _, v in thin])
        np.maximum(vessels, np.minimum(splat(within, points, volume), 1), out=vessels)
        middles = np.array([(tube.start + tube.end) / 2 for tube in bronchi])
        ends = np.array([tube.end for tube in bronchi])
        heart = np.maximum(coarse.sample(self.shapes.heart, middles), coarse.sample(self.shapes.heart, ends))
        return vessels, [tube for tube, depth in zip(bronchi, heart) if depth < -3]


def paint_tube(
    hu: np.ndarray, box: Box, tube: anatomy.Tube, *, grow_mm: float = 0.0, value: float | None = None
) -> None:
    """Paint a tube into an array on `box`, in place; wider by `grow_mm` and in the HU `value` instead of its own."""
    part = capsule(box, tube.start, tube.end, radius=tube.radius + grow_mm)
    if part is not None:
        where, alpha = part
        paint(hu, where, alpha, tube.hu if value is None else value)
