"""How far apart scans are by the signature that finds near-duplicates: different people, and one scan changed.

DRASCLR_REAL_CT=FOLDER DRASCLR_ATLAS=FOLDER python -m tests.benchmarks.duplicates
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.atlas import atlas, read_atlas
from ctplatform.config import PhantomConfig
from ctplatform.duplicates import ALIKE_HU, read_signature
from ctplatform.phantom.subject import make_subject
from ctplatform.prepare import prepare_scan
from ctplatform.volume import read_volume
from ctplatform.workspace import Workspace
from tests.benchmarks.document import replace, table
from tests.benchmarks.realscans import folders, items, machine, recipe_of

ROOT = Path(__file__).resolve().parents[2]
PHANTOMS = 12
CHANGED = 4  # scans of each kind that are changed


def noisy(image: sitk.Image) -> sitk.Image:
    """Noise of 40 HU."""
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    array += np.random.default_rng(0).normal(0, 40, array.shape)
    return _like(image, array)


def smooth(image: sitk.Image) -> sitk.Image:
    """A soft kernel: Gaussian of 1 mm."""
    return sitk.Cast(sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 1.0), sitk.sitkInt16)


def thick(image: sitk.Image) -> sitk.Image:
    """Other slices: 1.7 times as far apart, half a slice off."""
    x, y, z = image.GetSpacing()
    size = image.GetSize()
    origin = image.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, 0.5))
    grid = [size[0], size[1], int((size[2] - 1) / 1.7)]
    return sitk.Resample(
        image, grid, sitk.Transform(), sitk.sitkLinear, origin, [x, y, 1.7 * z], image.GetDirection(), -1000.0
    )


def offset(image: sitk.Image) -> sitk.Image:
    """20 HU more everywhere."""
    return _like(image, sitk.GetArrayFromImage(image).astype(np.float32) + 20)


def turned(image: sitk.Image) -> sitk.Image:
    """Turned by three degrees and moved, as a table is: resampled on the same grid."""
    size = image.GetSize()
    centre = image.TransformContinuousIndexToPhysicalPoint([s / 2 for s in size])
    turn = sitk.Euler3DTransform(centre, 0.0, 0.0, np.radians(3.0), (4.0, -3.0, 2.0))
    return sitk.Resample(image, image, turn, sitk.sitkLinear, -1000.0)


def _like(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    made = sitk.GetImageFromArray(np.clip(array.round(), -1024, 3071).astype(np.int16))
    made.CopyInformation(image)
    return made


CHANGES: dict[str, Callable[[sitk.Image], sitk.Image]] = {
    "noise of 40 HU": noisy,
    "soft kernel (1 mm)": smooth,
    "slices 1.7 times as far apart": thick,
    "20 HU offset": offset,
    "turned by 3 degrees": turned,
}


def main() -> None:
    """Prepare, compare, write the table."""
    ct, atlas_folder = folders()
    recipe = recipe_of(atlas_folder)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "ws")
        atlas(workspace, None, recipe)
        count = read_atlas(workspace).num_blocks
        blocks = sorted({count // 4, (3 * count) // 4})
        groups: dict[str, dict[str, np.ndarray]] = {"real": {}, "phantom": {}}
        same: dict[str, dict[str, list[float]]] = {"real": {}, "phantom": {}}

        def prepared(name: str, path: str, series: str = "") -> np.ndarray | None:
            item = {
                "scan_id": name,
                "subject_id": name,
                "path": path,
                "series_uid": series,
                "fingerprint": "",
            }
            row = prepare_scan(workspace, item, recipe.prepare, config_hash="benchmark")
            if row["state"] not in ("accepted", "flagged"):
                return None
            found = read_signature(workspace, name, blocks)
            return found - found.mean()

        def take(kind: str, name: str, image: sitk.Image) -> None:
            file = Path(folder) / f"{name}.mha"
            sitk.WriteImage(image, str(file))
            own = prepared(name, str(file))
            if own is None:
                return
            groups[kind][name] = own
            if len(groups[kind]) > CHANGED:
                return
            for change, make in CHANGES.items():
                sitk.WriteImage(make(image), str(file))
                other = prepared(f"{name}-changed", str(file))
                if other is not None:
                    distance = float(np.sqrt(np.square(own - other).mean()))
                    same[kind].setdefault(change, []).append(distance)
                    print(kind, name, change, f"{distance:.1f}", flush=True)

        for number, item in enumerate(items(ct)):
            image = sitk.Cast(
                read_volume(item["path"], series_uid=item["series_uid"] or None).image, sitk.sitkInt16
            )
            take("real", f"real{number}", image)
        config = PhantomConfig(subjects=PHANTOMS, spacing_mm=2.0, dicom_every=0)
        for index in range(PHANTOMS):
            take("phantom", f"phantom{index}", make_subject(index, config=config).image)
        rows = []
        for kind, found in groups.items():
            apart = [
                float(np.sqrt(np.square(a - b).mean())) for a, b in itertools.combinations(found.values(), 2)
            ]
            rows.append([f"{kind}: different people", f"{len(apart)}", *_range(apart)])
            rows += [[f"{kind}: {change}", f"{len(hu)}", *_range(hu)] for change, hu in same[kind].items()]
    text = table(["pairs", "n", "least, HU", "median, HU", "largest, HU"], rows)
    replace(
        ROOT / "docs" / "benchmarks.md",
        "Near-duplicates",
        f"Distance of two scans by their signatures; below {ALIKE_HU:.0f} HU they are near-duplicates.\n\n{text}\n\n"
        f"`python -m tests.benchmarks.duplicates`, {machine()}. Distances do not depend on the machine.",
    )
    print(text)


def _range(values: list[float]) -> list[str]:
    return [f"{f(values):.1f}" for f in (np.min, np.median, np.max)]


if __name__ == "__main__":
    main()
