"""Tables of the benchmarks in docs/benchmarks/: each benchmark owns one section of one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"

#: Sections by the page that holds them. A page's text above its sections is written by hand and stays as it is.
PAGES = {
    "method.md": (
        "Method",
        "Layouts and precisions",
        "The whole step",
        "Losses of 50 steps",
        "Each patch once",
        "Embedding few scans",
    ),
    "training.md": ("Two workers", "The cost of the published training", "GPU"),
    "options.md": ("Options of the method",),
    "feed.md": ("Feed", "Feed from an object store"),
    "preparation.md": (
        "Preparing scans",
        "Preparing scans with two builds",
        "Sampling",
        "Oblique scans",
        "One scan from file to vector",
        "Ray's overhead",
        "Memory of preparing",
        "From a public bucket",
    ),
    "registration.md": ("Registration",),
    "scale.md": ("Scale", "A public collection"),
    "label-maps.md": ("Label maps",),
    "duplicates.md": ("Near-duplicates",),
    "evidence.md": ("Evidence, tables", "Tasks that density fails at", "Real tissue"),
    "inputs.md": ("Kinds of input",),
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace(section: str, text: str) -> None:
    """Put a text under `## section` of its page, in place of what was there; other sections stay as they are.

    Raises KeyError for a section that no page holds.
    """
    names = [name for name, sections in PAGES.items() if section in sections]
    if not names:
        raise KeyError(f"no page of docs/benchmarks holds the section {section!r}: add it to document.PAGES")
    page = BENCHMARKS / names[0]
    before, marker, after = page.read_text(encoding="utf-8").partition(f"## {section}\n")
    _, next_marker, rest = after.partition("\n## ")
    tail = f"\n## {rest}" if next_marker else ""
    page.write_text(
        f"{before.rstrip()}\n\n{marker or f'## {section}' + chr(10)}\n{text.strip()}\n{tail}",
        encoding="utf-8",
    )
