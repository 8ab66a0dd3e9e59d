"""Style of the charts: Okabe and Ito's colours (safe for colour-blind readers), a marker for each, plain axes.

Charts are small and separate, so that a page can set them side by side or one below the other without shrinking
their text. Colour universal design: https://jfly.uni-koeln.de/color/ (M. Okabe, K. Ito).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart

BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, GREY = "#cc79a7", "#56b4e9", "#7f8890"
WINE = "#882255"  # P. Tol's: Okabe and Ito's yellow cannot be seen on white
INK, MUTED, RULE = "#1c2733", "#5a6672", "#d9dfe5"

STATE_COLOURS = {"accepted": BLUE, "flagged": ORANGE, "rejected": VERMILION, "failed": GREY}
_STYLES = {
    "drasclr": (BLUE, "o"),
    "finetune": (PURPLE, "*"),
    "scratch": (VERMILION, "s"),
    "density": (GREEN, "D"),
    "random": (GREY, "^"),
    "local": (ORANGE, "P"),
    "global": (SKY, "X"),
    "none": (INK, "v"),
    "moco": (WINE, "d"),
}
_SPARE = ((ORANGE, "P"), (SKY, "X"), (INK, "v"), (WINE, "d"))

# Inches. Shown two (wide) or three (narrow) side by side, or alone on a phone, text is 10 to 13 px high.
WIDE, NARROW = 4.3, 3.3
HEIGHT = 0.7  # of the width, by default
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays selectable, and is set in the page's own font
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,  # a `$` in a label is a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.05,
    "figure.constrained_layout.w_pad": 0.05,
}
_IDS = re.compile(r'(\bid="|url\(#|href="#)')


def styles(initialisations: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each initialisation, the same on every chart of a report."""
    spare = iter(_SPARE * 8)
    return {name: _STYLES.get(name) or next(spare) for name in initialisations}


def chart(
    name: str, draw: Callable[[Axes], object], *, width: float = WIDE, height: float | None = None
) -> str:
    """Draw on one pair of axes and return the SVG document. Equal input gives equal text.

    Args:
        name: unique on the page; prefixes every id inside the SVG, so that charts cannot share one.
        draw: called with the axes.
        width: inches; `panel_width` gives it.
        height: inches; by default in proportion.
    """
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        figure = Chart(figsize=(width, height or HEIGHT * width))
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return _IDS.sub(rf"\g<1>{name}-", text).strip()


def in_twos(panels: int) -> bool:
    """Whether this number of charts is set two side by side; otherwise three."""
    return panels in (1, 2, 4)


def panel_width(panels: int) -> float:
    """Width in inches of each of this number of charts."""
    return WIDE if in_twos(panels) else NARROW


def ylabel(axes: Axes, text: str) -> None:
    """Write the label of the vertical axis above it, horizontally."""
    axes.set_title(text, loc="left", fontsize=9, color=MUTED, pad=7)


def reference(axes: Axes, y: float, label: str) -> None:
    """A dashed line across the finished chart with its meaning written on it, at the left end."""
    low, high = axes.get_ylim()
    below = (y - low) > 0.9 * (high - low)
    axes.axhline(y, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        label,
        (0.005, y),
        xycoords=("axes fraction", "data"),
        xytext=(0, -2 if below else 2),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        va="top" if below else "bottom",
    )
