"""Pages that commands write."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctplatform.cli.html_page import page_path, write_page
from ctplatform.errors import StageError


def test_a_page_is_written_below_folders_that_are_missing(tmp_path: Path) -> None:
    page = page_path(str(tmp_path / "a" / "b" / "page.html"))
    write_page(page, "<p>\u00b5m</p>")
    assert page.read_text(encoding="utf-8") == "<p>\u00b5m</p>"


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the page is HTML"):
        page_path(str(tmp_path / "page.pdf"))
