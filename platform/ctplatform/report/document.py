"""The parts of a page: sections with figures, tables and text, independent of HTML and of where the data are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A plain table; the first column heads the row.

    Args:
        numeric: indices of the columns that are set flush right.
        strong: indices of the rows set in bold.
        note: a line below the table.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()
    strong: frozenset[int] = frozenset()
    note: str = ""

    def csv(self) -> str:
        """The same cells as comma-separated values."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return stream.getvalue()


@dataclass(frozen=True)
class Panel:
    """One chart of a figure: an SVG document, and the text for readers who cannot see it."""

    name: str
    title: str
    svg: str
    alt: str
    detail: str = ""


@dataclass(frozen=True)
class Image:
    """One image of a figure.

    Args:
        data: the encoded image.
        kind: media type, as image/webp.
        state: state of the scan, shown as a badge.
    """

    name: str
    data: bytes
    kind: str
    width: int
    height: int
    alt: str
    state: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a colour (hex), a marker (matplotlib's letter, or "" for a plain swatch), a label."""

    label: str
    colour: str
    marker: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Box:
    """One box of a flow chart; `excluded` boxes leave the flow at this point."""

    title: str
    n: int
    lines: Sequence[str] = ()
    excluded: Sequence[Box] = ()
    state: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure with its n and interval in words, the tables behind it and the command that reproduces it.

    Exactly one of panels, images and flow is filled.

    Args:
        choice: label of a box that selects one of the panels by its title; empty: all are shown.
    """

    name: str
    title: str
    caption: str
    n: str
    interval: str
    command: str
    panels: Sequence[Panel] = ()
    images: Sequence[Image] = ()
    flow: Sequence[Box] = ()
    keys: Sequence[Key] = ()
    tables: Sequence[Table] = ()
    choice: str = ""


@dataclass(frozen=True)
class Section:
    """A heading of the page.

    Args:
        paragraphs: text, or (subject, text).
        facts: (value, label) pairs, shown large.
        notices: highlighted paragraphs.
        folded: tables that are collapsed at first.
        command: a command line for the whole section.
    """

    name: str
    title: str
    paragraphs: Sequence[str | tuple[str, str]] = ()
    facts: Sequence[tuple[str, str]] = ()
    notices: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    command: str = ""


@dataclass(frozen=True)
class Omitted:
    """A section that is left out, with the reason."""

    title: str
    reason: str


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    omitted: Sequence[Omitted] = field(default_factory=tuple)
    generated: str = ""
