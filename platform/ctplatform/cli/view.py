"""`drasclr view SCAN`: a page with one scan, its mask, the atlas's locations and a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctplatform.cli.html_page import page_path, write_page
from ctplatform.errors import StageError

VIEWERS = NIIVUE, SLICES = "niivue", "slices"


def write_view(
    scan: str,
    *,
    output: str,
    weights: str | None = None,
    atlas: str | None = None,
    labels: str | None = None,
    spacing_mm: float = 1.5,
    viewer: str | None = None,
    mask: str | None = None,
) -> dict[str, Any]:
    """Write the page; what `--json` prints.

    Args:
        scan: volume file or DICOM folder.
        output: the page, .html.
        weights: whose atlas is shown; None: CT, mask and labels only.
        atlas: folder of the atlas, for weights that were saved without it.
        labels: label map.
        spacing_mm: of the voxels in the page.
        viewer: one of `VIEWERS`; None: NiiVue where it is installed.
        mask: file for the lung mask on the scan's own voxels, .nii.gz.

    Raises:
        StageError: the weights cannot be used, the output is no page, the mask no .nii.gz, or NiiVue is not installed.
        ScanError: the scan or the label map cannot be read.
    """
    from ctplatform.cli.embed import load_model
    from ctplatform.report.niivue import INSTALL, installed
    from ctplatform.report.scan_page import scan_page, volume_page
    from ctplatform.report.scan_view import view_scan

    page = page_path(output)
    if mask is not None and not mask.endswith(".nii.gz"):
        raise StageError(
            f"{mask}: the lung mask is compressed NIfTI", "Give a name that ends with .nii.gz", code="usage"
        )
    niivue = None if viewer == SLICES else installed()
    if viewer == NIIVUE and niivue is None:
        raise StageError("NiiVue is not installed", f"{INSTALL}, or give --viewer slices", code="extra")
    view = view_scan(
        scan if "://" in scan else str(Path(scan).expanduser()),
        name=Path(scan).name,
        model=load_model(weights, atlas=atlas) if weights else None,
        labels=labels,
        spacing_mm=spacing_mm,
        mask_file=Path(mask).expanduser() if mask else None,
    )
    write_page(page, volume_page(view, niivue) if niivue else scan_page(view))
    return {
        "scan": view.name,
        "verdict": view.verdict,
        "locations": len(view.centres_mm_N3),
        "labels": list(view.names.values()),
        "viewer": NIIVUE if niivue else SLICES,
        "mask": mask,
        "page": str(page),
    }
