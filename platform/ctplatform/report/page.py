"""Rendering of the page: one self-contained HTML file. The template escapes all text from the data."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from ctplatform.report import style
from ctplatform.report.document import Figure, Key, Page

HERE = Path(__file__).parent
# Colours of the charts become CSS variables, so that the dark scheme and print can set them.
VARIABLES = {
    style.INK: "--ink",
    style.MUTED: "--muted",
    style.RULE: "--rule",
    style.BLUE: "--blue",
    style.ORANGE: "--orange",
    style.GREEN: "--green",
    style.VERMILION: "--vermilion",
    style.PURPLE: "--purple",
    style.SKY: "--sky",
    style.WINE: "--wine",
    style.GREY: "--grey",
    "#ffffff": "--card",
}
_COLOUR = re.compile("|".join(VARIABLES), re.IGNORECASE)
SHAPES = {
    "o": '<circle cx="13" cy="7" r="4"/>',
    "s": '<rect x="9.2" y="3.2" width="7.6" height="7.6"/>',
    "D": '<path d="M13 2.2 17.8 7 13 11.8 8.2 7z"/>',
    "^": '<path d="M13 2.6 17.4 10.6H8.6z"/>',
    "v": '<path d="M13 11.4 17.4 3.4H8.6z"/>',
    "d": '<path d="M13 1.8 16 7 13 12.2 10 7z"/>',
    "P": '<path d="M11.4 2.4h3.2v3h3v3.2h-3v3h-3.2v-3h-3V5.4h3z"/>',
    "X": '<path d="M10.4 2.2 13 4.8l2.6-2.6 2.2 2.2L15.2 7l2.6 2.6-2.2 2.2L13 9.2l-2.6 2.6-2.2-2.2L10.8 7 8.2 4.4z"/>',
    "*": '<path d="m13 1.6 1.4 3.7 4 .2-3.1 2.5 1 3.9L13 9.7l-3.3 2.2 1-3.9-3.1-2.5 4-.2z"/>',
}


def template(name: str) -> Template:
    """A template beside this module. It escapes all text, and a name without a value is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(page: Page) -> str:
    """The complete HTML document."""
    return template("page.html.jinja").render(
        page=page,
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        chart=_chart,
        key=legend_sign,
        data_uri=lambda image: f"data:{image.kind};base64,{base64.b64encode(image.data).decode()}",
        columns=_columns,
    )


def _chart(svg: str) -> Markup:
    """A chart's SVG for embedding: colours as CSS variables, hidden from screen readers, which read the alt text."""
    text = _COLOUR.sub(lambda hit: f"var({VARIABLES[hit.group().lower()]})", svg)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return Markup(text.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1))


def legend_sign(key: Key) -> Markup:
    """The SVG sign of a legend entry."""
    colour = f"var({VARIABLES[key.colour]})"
    if key.dashed:
        inside = f'<path d="M13 0v14" stroke="{colour}" stroke-width="1.6" stroke-dasharray="4 3"/>'
    elif key.marker == "-":
        inside = f'<path d="M13 0v14" stroke="{colour}" stroke-width="1.6"/>'
    elif key.marker == "o-":
        inside = f'<path d="M1 7h24" stroke="{colour}" stroke-width="1.6"/>'
        inside += f'<circle cx="13" cy="7" r="4" fill="var(--card)" stroke="{colour}" stroke-width="1.4"/>'
    elif key.marker:
        shape = SHAPES[key.marker]
        inside = f'<path d="M1 7h24" stroke="{colour}" stroke-width="1.6"/><g fill="{colour}">{shape}</g>'
    else:
        inside = f'<rect x="6" y="1" width="14" height="12" rx="2" fill="{colour}"/>'
    return Markup(f'<svg class="sign" viewBox="0 0 26 14" aria-hidden="true">{inside}</svg>')


def _columns(figure: Figure) -> str:
    """CSS class of the grid of charts."""
    return "two" if figure.choice or style.in_twos(len(figure.panels)) else "three"
