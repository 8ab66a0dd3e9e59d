"""Tables of the benchmarks in docs/benchmarks.md: each benchmark owns one section."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TITLE = "# Benchmarks\n"
BENCHMARKS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace(section: str, text: str) -> None:
    """Put a text under `## section`, in place of what was there; other sections stay as they are."""
    old = BENCHMARKS.read_text(encoding="utf-8") if BENCHMARKS.is_file() else TITLE
    before, marker, after = old.partition(f"## {section}\n")
    _, next_marker, rest = after.partition("\n## ")
    tail = f"\n## {rest}" if next_marker else ""
    BENCHMARKS.write_text(
        f"{before.rstrip()}\n\n{marker or f'## {section}' + chr(10)}\n{text.strip()}\n{tail}",
        encoding="utf-8",
    )
