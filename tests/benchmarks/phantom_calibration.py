"""Compare the phantom with real tissue and real CTs, and draw the figure of docs/explanation/phantom.md.

    python tests/benchmarks/phantom_calibration.py [--patches EmphysemaPatches.mat] [--real-ct FOLDER] [--image FILE]

The patches are the emphysema patches of the Chest Imaging Platform (31 x 31 pixels, HU, six classes), which come with
no pixel size; 0.65 mm is assumed. The phantom is rendered at that size in small blocks of lung; patches are classed by
its truth. Prints Markdown tables; the figure is written only where --image is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.config.preparation import LungsConfig
from ctplatform.config.recipe import PhantomConfig
from ctplatform.imaging.volume import read_volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.phantom import make_subject
from ctplatform.phantom.disease import CENTRILOBULAR, PANLOBULAR, PARASEPTAL
from ctplatform.phantom.grid import Box
from ctplatform.phantom.parameters import KERNEL_SIGMA_MM, draw, random_stream
from ctplatform.phantom.scene import Scene
from ctplatform.phantom.texture import noise

PIXEL_MM, PATCH = 0.65, 31
TISSUE_HU = -700
"""Pixels above are vessels, walls or chest wall and are left out of the tissue statistics."""
CLASSES = (
    "normal",
    "paraseptal",
    "panlobular",
    "mild centrilobular",
    "moderate centrilobular",
    "severe centrilobular",
)


def tissue_statistics(patches_NYX: np.ndarray, *, pixel_mm: float) -> dict[str, float]:
    """Mean over patches of mean, SD, LAA-950, autocorrelation length (1/e, mm) and share of pixels above TISSUE_HU."""
    rows, curves = [], []
    for patch in patches_NYX.astype(float):
        tissue = patch < TISSUE_HU
        if tissue.mean() < 0.25:
            continue
        values = patch[tissue]
        rows.append((values.mean(), values.std(), (values < -950).mean(), 1 - tissue.mean()))
        curves.append(autocorrelation(patch, tissue))
    mean, sd, laa, bright = np.mean(rows, axis=0)
    curve = np.mean(curves, axis=0)
    length = float(np.interp(-1 / np.e, -curve, np.arange(len(curve)))) * pixel_mm
    return {"n": len(rows), "mean": mean, "sd": sd, "laa950": laa, "length": length, "bright": bright}


def autocorrelation(patch: np.ndarray, mask: np.ndarray, *, lags: int = 9) -> np.ndarray:
    """Autocorrelation along rows and columns within a mask, lags 0, 1, ... pixels."""
    centred = np.where(mask, patch - patch[mask].mean(), 0)
    result = []
    for lag in range(lags):
        total, count = 0.0, 0
        for a, m in ((centred, mask), (centred.T, mask.T)):
            both = m[lag:] & m[: len(m) - lag]
            total += float((a[lag:] * a[: len(a) - lag])[both].sum())
            count += int(both.sum())
        result.append(total / max(count, 1))
    return np.array(result) / result[0]


def real_patches(path: Path) -> dict[str, np.ndarray]:
    """The classes of the patch file, [N, 31, 31] each."""
    from scipy.io import loadmat

    cells = loadmat(path)["EmphyPatch"]
    return {name: cells[0, i].transpose(2, 0, 1) for i, name in enumerate(CLASSES)}


def phantom_patches(indices: Iterable[int], *, seed: int = 0, blocks: int = 5) -> dict[str, np.ndarray]:
    """Patches of the phantom at the pixel size of the real ones, classed by the truth within the lung.

    Blocks lie anywhere in the lungs, and as often around a voxel of each disease that the subject has.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    size = np.array([5 * PATCH, 5 * PATCH, 9])
    for index in indices:
        drawn = draw(index, seed=seed, spacing_mm=3.0)
        scene = Scene.build(drawn)
        rng = random_stream(seed, index, "blocks")
        whole = scene.field_of_view()
        overview = scene.render(whole)
        places = [np.argwhere(overview.lungs > 0)]
        for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL):
            ill = np.argwhere((overview.disease & bit) > 0)
            if len(ill) > 1500:
                places.append(ill)
        for k in range(blocks * len(places)):
            choice = places[k % len(places)]
            middle = whole.start + choice[rng.integers(len(choice))][::-1] * whole.spacing
            box = Box(middle - size * PIXEL_MM / 2, np.full(3, PIXEL_MM), size)
            rendered = scene.render(box)
            sigma = KERNEL_SIGMA_MM[drawn.scanner.kernel]
            hu = rendered.hu + noise(box, scanner=drawn.scanner, sigma_mm=sigma, rng=rng)
            hu += drawn.scanner.offset_hu
            for patch, lungs, bits in zip(*(tiles(a[4]) for a in (hu, rendered.lungs, rendered.disease))):
                name = classify(lungs, bits)
                if name:
                    found[name].append(np.rint(patch))
    return {name: np.array(patches) for name, patches in found.items()}


def tiles(plane_YX: np.ndarray) -> np.ndarray:
    """Cut a plane into patches, [N, PATCH, PATCH]."""
    ny, nx = plane_YX.shape[0] // PATCH, plane_YX.shape[1] // PATCH
    cut = plane_YX[: ny * PATCH, : nx * PATCH].reshape(ny, PATCH, nx, PATCH)
    return cut.transpose(0, 2, 1, 3).reshape(-1, PATCH, PATCH)


def classify(lungs: np.ndarray, bits: np.ndarray) -> str | None:
    """Class of a patch by its truth, or None where it is mixed or mostly outside of the lung."""
    inside = lungs > 0
    share = inside.mean()
    if share < 0.35:
        return None
    centrilobular, panlobular, paraseptal = (
        float(((bits & bit) > 0)[inside].mean()) for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL)
    )
    if paraseptal > 0.12 and share < 0.98 and panlobular < 0.1:
        return "paraseptal"
    if share < 0.90:
        return None
    if panlobular > 0.85:
        return "panlobular"
    if panlobular > 0.05 or paraseptal > 0.02:
        return None
    if centrilobular < 0.01:
        return "normal"
    if centrilobular < 0.03:
        return None
    edges = {"mild centrilobular": 0.15, "moderate centrilobular": 0.40, "severe centrilobular": 1.1}
    return next(name for name, edge in edges.items() if centrilobular < edge)


def table(real: dict[str, np.ndarray], phantom: dict[str, np.ndarray]) -> str:
    """The comparison in Markdown."""
    lines = [
        "| tissue | source | patches | mean (HU) | SD (HU) | LAA-950 | autocorrelation length (mm) | above -700 HU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in CLASSES:
        for source, patches in (("real", real.get(name)), ("phantom", phantom[name])):
            if patches is None or len(patches) < 5:
                continue
            s = tissue_statistics(patches, pixel_mm=PIXEL_MM)
            lines.append(
                f"| {name} | {source} | {s['n']:.0f} | {s['mean']:.0f} | {s['sd']:.0f} | {s['laa950']:.3f} "
                f"| {s['length']:.2f} | {s['bright']:.3f} |"
            )
    return "\n".join(lines)


REAL_SCANS = {
    "LIDC-IDRI-0001": "lidc_0001/cxr.nii.gz",
    "Lung-PET-CT-Dx A0001": "lung_dx_a0001/dicom",
    "Lung-PET-CT-Dx A0002": "lung_dx_a0002/dicom",
    "4D-Lung 113": "4dlung_113/dicom",
    "pyradiomics lung2": "pyradiomics_lung/lung2_image.nrrd",
}


def scan_statistics(image: sitk.Image, lungs: sitk.Image) -> dict[str, float]:
    """Volume and density of the lungs, and the tissue statistics of 20 mm squares inside them."""
    hu = sitk.GetArrayFromImage(image)
    labels = sitk.Resample(lungs, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    mask = sitk.GetArrayFromImage(labels) > 0
    values = hu[mask]
    dx, dy, dz = image.GetSpacing()
    n = max(5, round(20 / dx))
    share = ndimage.uniform_filter(mask.astype(np.float32), (1, n, n))
    centres = np.argwhere(share > 0.98)
    rng = np.random.default_rng(0)
    patches = []
    for z, y, x in centres[rng.integers(len(centres), size=300)]:
        patch = hu[z, y - n // 2 : y - n // 2 + n, x - n // 2 : x - n // 2 + n]
        if patch.shape == (n, n):
            patches.append(patch)
    tissue = tissue_statistics(np.array(patches), pixel_mm=dx)
    return {
        "volume_l": float(mask.sum() * dx * dy * dz / 1e6),
        "mean": float(values.mean()),
        "laa950": float((values < -950).mean()),
        "perc15": float(np.percentile(values, 15)),
        "tissue_mean": tissue["mean"],
        "tissue_sd": tissue["sd"],
        "length": tissue["length"],
        "bright": tissue["bright"],
    }


def scan_table(folder: Path | None, *, subjects: int) -> str:
    """Real scans one by one, then the median and 5-95% range of phantom subjects at the demo's spacing."""
    lines = [
        "| scan | voxel (mm) | volume (L) | mean (HU) | LAA-950 | Perc15 (HU) | tissue mean | tissue SD "
        "| autocorrelation length (mm) | above -700 HU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    forms = ("{:.1f}", "{:.0f}", "{:.3f}", "{:.0f}", "{:.0f}", "{:.0f}", "{:.2f}", "{:.3f}")
    segment = make_segmenter(LungsConfig())
    for name, place in REAL_SCANS.items() if folder else ():
        image = read_volume(str(folder / place)).image
        row = scan_statistics(image, segment(image).labels)
        voxel = " x ".join(f"{s:.2f}" for s in image.GetSpacing())
        lines.append(
            " | ".join([f"| {name}", voxel, *(f.format(v) for f, v in zip(forms, row.values()))]) + " |"
        )
    groups: dict[str, list[list[float]]] = {"extent below 2%": [], "extent above 10%": []}
    for index in range(subjects):
        subject = make_subject(index, config=PhantomConfig(subjects=subjects))
        extent = float(subject.labels["emphysema_extent"])
        if 0.02 <= extent <= 0.10:
            continue
        image, lungs = (sitk.DICOMOrient(i, "LPS") for i in (subject.image, subject.lungs))
        group = "extent below 2%" if extent < 0.02 else "extent above 10%"
        groups[group].append(list(scan_statistics(image, lungs).values()))
    for group, rows in groups.items():
        low, middle, high = np.percentile(rows, (5, 50, 95), axis=0)
        cells = [
            f"{f.format(m)} ({f.format(a)} to {f.format(b)})" for f, a, m, b in zip(forms, low, middle, high)
        ]
        lines.append(
            " | ".join([f"| phantom, {group}, n = {len(rows)}", "about 1.8 x 1.8 x 2.3", *cells]) + " |"
        )
    return "\n".join(lines)


def picture(folder: Path, target: Path) -> None:
    """Axial and coronal slices and 80 mm of lung (-1024 to -700 HU): real CTs left, phantoms right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = []
    for name in ("LIDC-IDRI-0001", "4D-Lung 113"):
        image = read_volume(str(folder / REAL_SCANS[name])).image
        image = sitk.Shrink(image, [max(1, round(1.8 / s)) for s in image.GetSpacing()])
        columns.append((f"real: {name}", image))
    for index, text in ((5, "almost none"), (2, "mild"), (1, "severe")):
        subject = make_subject(index, config=PhantomConfig())
        extent = float(subject.labels["emphysema_extent"])
        columns.append((f"phantom: {text} ({100 * extent:.0f}%)", sitk.DICOMOrient(subject.image, "LPS")))
    figure, axes = plt.subplots(3, len(columns), figsize=(2.8 * len(columns), 7.6), facecolor="black")
    for column, (title, image) in enumerate(columns):
        hu = np.maximum(sitk.GetArrayFromImage(image), -1024)
        sx, sy, sz = image.GetSpacing()
        tissue = np.argwhere(hu > -300)
        low, high = (
            np.percentile(tissue, 0.5, axis=0).astype(int),
            np.percentile(tissue, 99.5, axis=0).astype(int),
        )
        z, y = (int(low[a] + f * (high[a] - low[a])) for a, f in ((0, 0.52), (1, 0.45)))
        rows, cols = slice(max(low[1] - 6, 0), high[1] + 14), slice(max(low[2] - 6, 0), high[2] + 6)
        view = {"cmap": "gray", "vmin": -1024, "vmax": 240}
        axes[0, column].imshow(hu[z, rows, cols], aspect=sy / sx, **view)
        axes[1, column].imshow(hu[::-1, y, cols], aspect=sz / sx, **view)
        near = np.s_[
            z,
            y : y + round(80 / sy),
            int(low[2] + 0.20 * (high[2] - low[2])) : int(low[2] + 0.20 * (high[2] - low[2]))
            + round(80 / sx),
        ]
        axes[2, column].imshow(hu[near], aspect=sy / sx, cmap="gray", vmin=-1024, vmax=-700)
        axes[0, column].set_title(title, color="white", fontsize=9)
    for ax in axes.ravel():
        ax.axis("off")
    figure.tight_layout(pad=0.3)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=84, facecolor="black")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patches", type=Path, help="EmphysemaPatches.mat")
    parser.add_argument("--real-ct", type=Path, help="folder of real CTs")
    parser.add_argument("--image", type=Path, help="where to write the figure; needs --real-ct")
    parser.add_argument("--subjects", type=int, default=16, help="phantom subjects to render")
    options = parser.parse_args()
    if options.image:
        if not options.real_ct:
            parser.error("--image shows real CTs beside the phantom: give --real-ct as well")
        picture(options.real_ct, options.image)
    real = real_patches(options.patches) if options.patches else {}
    print(table(real, phantom_patches(range(options.subjects))), end="\n\n")
    print(scan_table(options.real_ct, subjects=options.subjects))


if __name__ == "__main__":
    main()
