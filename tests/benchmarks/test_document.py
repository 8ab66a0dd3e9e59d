"""Each benchmark writes into its own section of a page of docs/benchmarks, and into nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks import document

SOURCES = sorted(Path(__file__).parent.glob("*.py"))


def sections() -> set[str]:
    """Every name that a benchmark passes to `replace`, directly or by a name of its own."""
    found: set[str] = set()
    for path in SOURCES:
        if path.name not in ("document.py", "test_document.py"):
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r'\breplace\("([A-Z][^"]+)", ', text))
            if re.search(r"\breplace\(SECTION, ", text):
                found |= set(re.findall(r'^SECTION = "([^"]+)"', text, re.M))
            if re.search(r"\breplace\(section, ", text):
                found |= set(re.findall(r'section = [^\n]*, "([A-Z][^"]+)"', text))
    return found


def test_every_section_has_a_page():
    assert sections() == {section for page in document.PAGES.values() for section in page}


@pytest.mark.parametrize("page", document.PAGES)
def test_every_written_section_is_known(page):
    text = (document.BENCHMARKS / page).read_text(encoding="utf-8")
    found = re.findall(r"^## (.+)$", text, re.M)
    assert found
    assert set(found) <= set(document.PAGES[page])


def test_a_section_is_replaced_and_the_rest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(document, "BENCHMARKS", tmp_path)
    page = tmp_path / "feed.md"
    page.write_text(
        "# Feed\n\nBy hand.\n\n## Feed\n\nold\n\n## Feed from an object store\n\nkept\n", encoding="utf-8"
    )
    document.replace("Feed", "new\n")
    assert page.read_text(encoding="utf-8") == (
        "# Feed\n\nBy hand.\n\n## Feed\n\nnew\n\n## Feed from an object store\n\nkept\n"
    )
    document.replace("Feed from an object store", "newer")
    assert page.read_text(encoding="utf-8").endswith("new\n\n## Feed from an object store\n\nnewer\n")
    page.write_text("# Feed\n\nBy hand.\n", encoding="utf-8")
    document.replace("Feed", "first")
    assert page.read_text(encoding="utf-8") == "# Feed\n\nBy hand.\n\n## Feed\n\nfirst\n"


def test_a_section_without_a_page_is_refused():
    with pytest.raises(KeyError, match="no page of docs/benchmarks holds the section 'Other'"):
        document.replace("Other", "text")
