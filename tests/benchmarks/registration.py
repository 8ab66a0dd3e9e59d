"""Our affine registration against ANTs with the published settings: overlap, landmark error, CPU time.

    pip install 'drasclr[bench]'
    python -m tests.benchmarks.registration --atlas FOLDER --ants-cache CACHE --ants-python python

Real scans come from the folder that DRASCLR_REAL_CT names. Their lung masks are made once, laid on the scan's own grid
as the published chain has them, and kept in CACHE with what ANTs found, so a later run compares another state of our
registration with the same masks and pays for ANTs (minutes to half an hour a scan) only where a result is missing.
Synthetic cases are the atlas itself moved by a known affine; every second one lacks the lowest 30% of the lungs.
FOLDER is that of the published atlas: atlas_lung_mask.nii.gz and atlas_patch_loc.npy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.config.preparation import LungsConfig
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.registration.affine import rotation_about, to_transform, transform_points
from ctplatform.registration.affine_registration import register
from ctplatform.registration.template import DEFAULTS, Template
from tests.benchmarks.document import replace, table

PEER = Path(__file__).with_name("ants_peer.py")
REAL = {
    "cip_ct64": "cip_ct64/ct-64.nrrd",
    "lidc_0001": "lidc_0001/cxr.nii.gz",
    "lung_dx_a0001": "lung_dx_a0001/dicom",
    "lung2": "pyradiomics_lung/lung2_image.nrrd",
    "lung_dx_a0002": "lung_dx_a0002/dicom",
    "4dlung_113": "4dlung_113/dicom",
    "lung1": "pyradiomics_lung/lung1_image.nrrd",
}
SPACINGS = ((0.8, 0.8, 2.5), (1.4, 1.4, 1.4), (0.7, 0.7, 5.0))
CUT = 0.3
PAD_MM = 60.0


@dataclass(frozen=True)
class Case:
    """One lung mask to register; `truth_44` for synthetic ones."""

    name: str
    labels: Path
    truth_44: NDArray[np.float64] | None = None


def cached_mask(folder: Path, name: str, make: Callable[[], sitk.Image]) -> Path:
    """The mask's file in the cache, made if it is missing."""
    path = folder / f"{name}.nii.gz"
    if not path.is_file():
        sitk.WriteImage(make(), str(path))
    return path


def real_mask(path: Path) -> sitk.Image:
    """Our lung mask of a scan on the scan's own grid."""
    image = read_volume(path).image
    labels = make_segmenter(LungsConfig.model_validate({}))(image).labels
    out = np.zeros(image.GetSize()[::-1], np.uint8)
    for label in (RIGHT, LEFT):
        share = sitk.Resample(
            labels == label, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32, True
        )
        out[sitk.GetArrayViewFromImage(share) > 0.5] = label
    native = sitk.GetImageFromArray(out)
    native.CopyInformation(image)
    return native


def synthetic(atlas: sitk.Image, seed: int, *, cut: bool) -> tuple[sitk.Image, NDArray[np.float64]]:
    """The atlas under an affine of up to 30 degrees, 30% a direction and 30 mm, on a scanner's grid."""
    rng = np.random.default_rng(seed)
    turn_33 = rotation_about(rng.normal(size=3), math.radians(rng.uniform(-30, 30)))
    truth_44 = np.eye(4)
    truth_44[:3, :3] = turn_33 @ np.diag(np.exp(rng.uniform(math.log(0.7), math.log(1.3), 3)))
    truth_44[:3, 3] = rng.uniform(-30, 30, 3)
    index_N3 = np.argwhere(sitk.GetArrayViewFromImage(atlas) > 0)[::50, ::-1]
    direction_33 = np.array(atlas.GetDirection()).reshape(3, 3)
    points_N3 = index_N3 * atlas.GetSpacing() @ direction_33.T + atlas.GetOrigin()
    moved_N3 = transform_points(truth_44, points_N3)
    low_3, high_3 = moved_N3.min(axis=0), moved_N3.max(axis=0)
    start_3 = low_3 - 15
    if cut:
        start_3[2] = low_3[2] + CUT * (high_3[2] - low_3[2])
    spacing = SPACINGS[seed % len(SPACINGS)]
    size = np.ceil((high_3 + 15 - start_3) / spacing).astype(int)
    inverse = to_transform(np.linalg.inv(truth_44))
    nearest = sitk.sitkNearestNeighbor
    axes = np.eye(3).ravel().tolist()
    labels = sitk.Resample(
        atlas, size.tolist(), inverse, nearest, start_3.tolist(), spacing, axes, 0.0, sitk.sitkUInt8
    )
    return labels, truth_44


def cases(args: argparse.Namespace, atlas: sitk.Image) -> tuple[list[Case], list[Case]]:
    """Cases with a peer's result, quickest to tell first, and synthetic ones for ours alone."""
    folder = Path(args.ants_cache)
    both = [
        Case(name, cached_mask(folder, name, lambda p=path: real_mask(Path(args.ct) / p)))
        for name, path in REAL.items()
    ]
    alone = []
    for number in range(args.synthetic):
        cut = number % 2 == 1
        name = f"synthetic_{number:02d}{'_cut' if cut else ''}"
        labels, truth_44 = synthetic(atlas, 100 + number, cut=cut)
        alone.append(Case(name, cached_mask(folder, name, lambda image=labels: image), truth_44))
    with_peer, rest = [*both, *alone[:2]], alone[2:]
    if args.ants_cases is None:
        return with_peer, rest
    named = {case.name: case for case in (*with_peer, *rest)}
    chosen = [named.pop(name) for name in args.ants_cases]
    return chosen, list(named.values())


def overlap(atlas: sitk.Image, labels: sitk.Image, affine_44: NDArray) -> tuple[float, float, float]:
    """Dice of both lungs together, of the right and of the left one, on the atlas' own grid made wider."""
    pad = [round(PAD_MM / s) for s in atlas.GetSpacing()]
    wide = sitk.ConstantPad(atlas, pad, pad, 0)
    moved = sitk.Resample(
        labels, wide, to_transform(affine_44), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8
    )
    a, b = sitk.GetArrayViewFromImage(wide), sitk.GetArrayViewFromImage(moved)

    def dice(x: NDArray, y: NDArray) -> float:
        return float(2 * (x & y).sum() / (x.sum() + y.sum()))

    return dice(a > 0, b > 0), dice(a == RIGHT, b == RIGHT), dice(a == LEFT, b == LEFT)


def ours(labels: sitk.Image, template: Template, repeats: int) -> tuple[NDArray, float]:
    """The affine and the fastest of some repeats, CPU-seconds."""
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        result = register(labels, template, DEFAULTS)
        best = min(best, time.process_time() - start)
    return result.affine_44, best


def ants(case: Case, args: argparse.Namespace, again: Callable[[], float]) -> dict | None:
    """What ANTs found, from the cache or now; `again` times ours before and after."""
    found = Path(args.ants_cache) / f"{case.name}.ants.json"
    if not found.is_file():
        if not args.ants_python:
            return None
        before = again()
        command = [args.ants_python, str(PEER), args.atlas_mask, str(case.labels), str(found)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = json.loads(found.read_text(encoding="utf-8"))
        result["ours_interleaved_cpu_s"] = [before, again()]
        result["peak_gb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        found.write_text(json.dumps(result), encoding="utf-8")
    return json.loads(found.read_text(encoding="utf-8"))


@dataclass
class Row:
    """What one side reached on one case."""

    dice: tuple[float, float, float]
    cpu_s: float
    error_mm: float = math.nan
    beside_s: float = math.nan
    """Of a peer: ours just before and after it, on the machine as it then was."""


def error(affine_44: NDArray, truth_44: NDArray | None, locations_N3: NDArray) -> float:
    """Mean distance of the mapped location centres from where the truth maps them, mm; all locations count."""
    if truth_44 is None:
        return math.nan
    apart = transform_points(affine_44, locations_N3) - transform_points(truth_44, locations_N3)
    return float(np.linalg.norm(apart, axis=1).mean())


def bars(pairs: list[tuple[Case, Row, Row]], mine: list[tuple[Case, Row]]) -> list[list[str]]:
    """Every bar, what was measured, and whether it holds."""
    rows = []

    def bar(name: str, value: float, text: str, holds: bool) -> None:
        rows.append([name, text.format(value), "yes" if holds else "no"])

    real = [(a.dice[0], b.dice[0]) for case, a, b in pairs if case.truth_44 is None]
    if real:
        mean = float(np.mean([a - b for a, b in real]))
        bar("mean Dice on real scans >= ANTs - 0.002", mean, f"{{:+.4f}} (n = {len(real)})", mean >= -0.002)
        worst = min(a - b for a, b in real)
        bar("never more than 0.03 below on one scan", worst, "{:+.4f}", worst >= -0.03)
        ratio = float(np.mean([b.cpu_s for _, _, b in pairs]) / np.mean([b.beside_s for _, _, b in pairs]))
        text = f"{{:.0f}}x (mean of {len(pairs)} cases)"
        bar(">= 500x fewer CPU-seconds than ANTs, run beside it", ratio, text, ratio >= 500)
    for cut in (False, True):
        errors = [r.error_mm for case, r in mine if case.truth_44 is not None and ("cut" in case.name) == cut]
        if errors:
            name = "with 30% of the scan cut off" if cut else "whole"
            value = float(np.mean(errors))
            text = f"{{:.2f}} mm (worst of {len(errors)}: {max(errors):.2f})"
            bar(f"mean landmark error <= 0.5 mm, {name}", value, text, value <= 0.5)
    cpu = float(np.mean([r.cpu_s for _, r in mine]))
    bar("CPU-seconds a scan <= 0.5", cpu, "{:.2f}", cpu <= 0.5)
    return rows


def document(pairs: list[tuple[Case, Row, Row]], mine: list[tuple[Case, Row]], software: str) -> str:
    """The section of docs/benchmarks/."""
    peers = {case.name: row for case, _, row in pairs}
    rows = []
    for case, row in mine:
        peer = peers.get(case.name)
        rows.append(
            [
                case.name,
                " / ".join(f"{d:.3f}" for d in row.dice),
                " / ".join(f"{d:.3f}" for d in peer.dice) if peer else "",
                "" if math.isnan(row.error_mm) else f"{row.error_mm:.2f}",
                "" if peer is None or math.isnan(peer.error_mm) else f"{peer.error_mm:.2f}",
                f"{row.cpu_s:.2f}",
                f"{peer.cpu_s:.0f}" if peer else "",
                f"{peer.cpu_s / peer.beside_s:.0f}x" if peer else "",
            ]
        )
    head = ("case", "Dice both / right / left", "ANTs", "error, mm", "ANTs", "CPU-s", "ANTs", "ratio")
    peer_text = (
        f"The peer is {software}, `antsRegistration` with every argument of the published preprocessing, one thread"
        if software
        else "No result of ANTs was at hand in this run"
    )
    return f"""`python -m tests.benchmarks.registration`: lung mask to the published atlas, both sides from one mask
file on the scan's own grid. Ours is the fastest of three in CPU time. {peer_text}.
It takes minutes to half an hour a case, so its results are kept and only some cases have one. The ratio divides its
CPU-seconds by those of ours just before and after it, on the machine as it then was. Dice on the atlas grid, 60 mm
wider. Error: mean over the 581 location centres, where the truth is known.

{table(head, rows)}

{table(("bar", "measured", "holds"), bars(pairs, mine))}
"""


def main() -> None:
    """Run and write the table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--ct", default=os.environ.get("DRASCLR_REAL_CT"))
    options.add_argument("--atlas", required=True, help="folder of the published atlas")
    options.add_argument("--ants-cache", required=True, help="masks and results of ANTs")
    options.add_argument(
        "--ants-python", help="an interpreter with antspyx; without it only cached results count"
    )
    options.add_argument("--ants-cases", nargs="*", help="run ANTs for these cases only, in this order")
    options.add_argument("--synthetic", type=int, default=20)
    args = options.parse_args()
    if not args.ct:
        options.error("give --ct or set DRASCLR_REAL_CT")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    Path(args.ants_cache).mkdir(parents=True, exist_ok=True)
    args.atlas_mask = str(Path(args.atlas) / "atlas_lung_mask.nii.gz")
    template = Template.read(args.atlas_mask)
    atlas = sitk.ReadImage(args.atlas_mask, sitk.sitkUInt8)
    locations_N3 = published_centres(atlas, Path(args.atlas) / "atlas_patch_loc.npy")
    with_peer, alone = cases(args, atlas)
    pairs, mine, software = [], [], ""
    for case in [*with_peer, *alone]:
        labels = sitk.ReadImage(str(case.labels))
        affine_44, cpu = ours(labels, template, 3)
        row = Row(overlap(atlas, labels, affine_44), cpu, error(affine_44, case.truth_44, locations_N3))
        mine.append((case, row))
        text = f"{case.name}: Dice {row.dice[0]:.4f}, error {row.error_mm:.2f} mm, {cpu:.2f} CPU-s"
        peer = None
        if case in with_peer:
            peer = ants(case, args, lambda labels=labels: ours(labels, template, 3)[1])
        if peer:
            software = peer["software"]
            their_44 = np.array(peer["affine"])
            other = Row(
                overlap(atlas, labels, their_44),
                peer["cpu_s"],
                error(their_44, case.truth_44, locations_N3),
                float(np.mean(peer["ours_interleaved_cpu_s"])),
            )
            pairs.append((case, row, other))
            text += f" | ANTs {other.dice[0]:.4f}, {other.error_mm:.2f} mm, {other.cpu_s:.0f} CPU-s"
        print(text, flush=True)
    replace("Registration", document(pairs, mine, software))


def published_centres(atlas: sitk.Image, path: Path) -> NDArray[np.float64]:
    """Centres of the published locations, LPS mm."""
    index_N3 = np.load(path) + 15.5
    direction_33 = np.array(atlas.GetDirection()).reshape(3, 3)
    return index_N3 * np.array(atlas.GetSpacing()) @ direction_33.T + np.array(atlas.GetOrigin())


if __name__ == "__main__":
    main()
