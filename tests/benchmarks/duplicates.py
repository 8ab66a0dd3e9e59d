"""How the signatures that find near-duplicates correlate: between different people, and with one scan changed.

DRASCLR_REAL_CT=FOLDER DRASCLR_ATLAS=FOLDER python -m tests.benchmarks.duplicates

Prints a Markdown table; `--write` puts it into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ctplatform.config.preparation import SplitConfig
from ctplatform.config.recipe import PhantomConfig
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.duplicates import chosen_blocks, read_signature
from ctplatform.imaging.volume import read_volume
from ctplatform.phantom.subject import make_subject
from ctplatform.preparation.atlas import atlas
from ctplatform.preparation.scan import prepare_scan
from ctplatform.storage.workspace import Workspace
from tests.benchmarks.document import replace, table
from tests.benchmarks.realscans import folders, items, machine, recipe_of

PHANTOMS = 8
CHANGED = 3  # scans of each kind that are changed


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
    """Prepare, compare, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    ct, atlas_folder = folders()
    recipe = recipe_of(atlas_folder)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "ws")
        atlas(workspace, None, recipe)
        blocks = chosen_blocks(read_atlas(workspace).num_blocks)
        own: dict[str, dict[str, np.ndarray]] = {"real": {}, "phantom": {}}
        changed: dict[tuple[str, str], list[tuple[str, np.ndarray]]] = {}

        def prepared(name: str, path: Path) -> np.ndarray | None:
            item = {
                "scan_id": name,
                "subject_id": name,
                "path": str(path),
                "series_uid": "",
                "fingerprint": "",
            }
            row = prepare_scan(workspace, item, recipe.prepare, config_hash="benchmark")
            usable = row["state"] in ("accepted", "flagged")
            return read_signature(workspace, name, blocks) if usable else None

        def take(kind: str, name: str, image: sitk.Image) -> None:
            file = Path(folder) / f"{name}.mha"
            sitk.WriteImage(image, str(file))
            found = prepared(name, file)
            if found is None:
                return
            own[kind][name] = found
            for change, make in CHANGES.items() if len(own[kind]) <= CHANGED else ():
                sitk.WriteImage(make(image), str(file))
                other = prepared(f"{name}-changed", file)
                if other is not None:
                    changed.setdefault((kind, change), []).append((name, other))

        for number, item in enumerate(items(ct)):
            volume = read_volume(item["path"], series_uid=item["series_uid"] or None)
            take("real", f"real{number}", sitk.Cast(volume.image, sitk.sitkInt16))
        config = PhantomConfig(subjects=PHANTOMS, spacing_mm=2.6, dicom_every=0)
        for index in range(PHANTOMS):
            take("phantom", f"phantom{index}", make_subject(index, config=config).image)
    everybody = {name: found for kind in own.values() for name, found in kind.items()}
    mean = np.mean(list(everybody.values()), axis=0)

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a - mean, b - mean)[0, 1])

    apart = [alike(a, b) for a, b in itertools.combinations(everybody.values(), 2)]
    rows = [["different people", f"{len(apart)}", *_range(apart)]]
    for (kind, change), scans in changed.items():
        rows.append(
            [f"{kind}: {change}", f"{len(scans)}", *_range([alike(everybody[n], o) for n, o in scans])]
        )
    text = (
        f"Correlation of the signatures of two scans; above {SplitConfig().alike_above} (`split.alike_above`) they\n"
        f"are one. {len(own['real'])} real CTs and {len(own['phantom'])} phantoms, on the published atlas.\n\n"
        f"{table(['pairs', 'n', 'least', 'median', 'most'], rows)}\n\n"
        f"`python -m tests.benchmarks.duplicates`, {machine()}. No correlation depends on the machine."
    )
    print(text)
    if options.write:
        replace("Near-duplicates", text)


def _range(values: list[float]) -> list[str]:
    return [f"{f(values):.2f}" for f in (np.min, np.median, np.max)]


if __name__ == "__main__":
    main()
