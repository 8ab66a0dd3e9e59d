"""Pages that commands write."""

from __future__ import annotations

from pathlib import Path

from ctplatform.errors import StageError


def page_path(output: str) -> Path:
    """Where a page goes, checked before it is made.

    Raises:
        StageError: its name does not end with .html.
    """
    page = Path(output).expanduser()
    if page.suffix != ".html":
        raise StageError(f"{output}: the page is HTML", "Give a name that ends with .html", code="usage")
    return page


def write_page(page: Path, html: str) -> None:
    """Write a page; missing folders are made."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
