"""`drasclr nearest SCAN`: the most similar patients of a scan, as a page and as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ctplatform.cli.html_page import page_path, write_page
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace


def find_nearest(
    workspace: Workspace,
    scan: str,
    *,
    output: str,
    run: str | None = None,
    locations: Sequence[int] = (),
    count: int = 4,
) -> dict[str, Any]:
    """Write the page; what `--json` prints.

    Args:
        workspace: with embeddings.
        scan: an id of the workspace, or a volume file or DICOM folder.
        output: the page, .html.
        run: whose embeddings; None: the only one.
        locations: of the atlas; none: three are chosen.
        count: neighbours.

    Raises:
        StageError: there are no embeddings, or no such scan.
        ScanError: the file cannot be read, or is rejected.
    """
    from ctplatform.inference.nearest import embedded_run, nearest, query_of_file, query_of_scan
    from ctplatform.inference.scan_embedding import preparation_of
    from ctplatform.report.nearest_page import nearest_page

    page = page_path(output)
    run = embedded_run(workspace, run)
    if Path(scan).expanduser().exists():
        query = query_of_file(workspace, run, str(Path(scan).expanduser()))
    else:
        query = query_of_scan(workspace, run, scan)
    found = nearest(workspace, run, query, locations=locations, count=count)
    window = preparation_of(workspace.read_json(*layout.card(run))).hu_window
    write_page(page, nearest_page(workspace, found, window=window))
    return found.plain() | {"page": str(page)}


def nearest_lines(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines of text."""
    yield f"{found['scan']}, among {found['searched']:,} scans of run {found['run']}"
    yield from _rows("by the patient's vector", found["patients"])
    for place in found["locations"]:
        yield from _rows(f"by the patch at location {place['location']}", place["patients"])
    yield f"pictures -> {found['page']}"


def _rows(title: str, patients: list[dict[str, Any]]) -> Iterator[str]:
    yield f"  {title}"
    for other in patients:
        yield f"    {other['cosine']:+.3f}  {other['scan_id']} of {other['subject_id']}"
