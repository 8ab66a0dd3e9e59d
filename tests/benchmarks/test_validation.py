"""Sections of docs/validation.md that two benchmarks write into one page."""

from __future__ import annotations

from tests.benchmarks.validation import KEPT, PAGE, replaced_section, sections

TEXT = "# Page\n\nTable.\n\n## One\n\nfirst\n\n## Two\n\nsecond\n"


def test_a_section_is_replaced_and_the_others_stay():
    assert sections(TEXT) == {"One": "first", "Two": "second"}
    changed = replaced_section(TEXT, "One", "new\n")
    assert changed == TEXT.replace("first", "new")
    added = replaced_section(TEXT, "Zero", "none")
    assert sections(added) == {"Zero": "none", "One": "first", "Two": "second"}
    assert replaced_section(added, "Two", "last").endswith("## Two\n\nlast\n")


def test_the_page_has_the_sections_that_are_kept():
    page = PAGE.read_text(encoding="utf-8")
    assert set(KEPT) <= set(sections(page))
