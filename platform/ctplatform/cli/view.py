"""`drasclr view SCAN`: a page with one scan, its mask, the atlas's locations and a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctplatform.cli.html_page import page_path, write_page


def write_view(
    scan: str, *, output: str, weights: str | None = None, labels: str | None = None, spacing_mm: float = 1.5
) -> dict[str, Any]:
    """Write the page; what `--json` prints.

    Args:
        scan: volume file or DICOM folder.
        output: the page, .html.
        weights: whose atlas is shown; None: CT, mask and labels only.
        labels: label map.
        spacing_mm: of the voxels in the page.

    Raises:
        StageError: the weights cannot be used, or the output is no page.
        ScanError: the scan or the label map cannot be read.
    """
    from ctplatform.cli.embed import load_model
    from ctplatform.report.scan_page import scan_page
    from ctplatform.report.scan_view import view_scan

    page = page_path(output)
    view = view_scan(
        scan if "://" in scan else str(Path(scan).expanduser()),
        name=Path(scan).name,
        model=load_model(weights) if weights else None,
        labels=labels,
        spacing_mm=spacing_mm,
    )
    write_page(page, scan_page(view))
    return {
        "scan": view.name,
        "verdict": view.verdict,
        "locations": len(view.centres_mm_N3),
        "labels": list(view.names.values()),
        "page": str(page),
    }
