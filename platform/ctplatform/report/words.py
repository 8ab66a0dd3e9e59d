"""Display names and number formats of the page, and the removal of anything that looks like a path."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import pandas as pd

from ctplatform import __version__
from ctplatform.metrics.overlap import SCORES, title_of

#: The width of an interval below this is rounding error.
ROUNDING = 1e-9
INITIALISATIONS = {
    "drasclr": "DrasCLR",
    "finetune": "DrasCLR, fine-tuned",
    "scratch": "From scratch",
    "density": "Density baseline",
    "random": "Random encoder",
    "local": "Local loss only",
    "global": "Global loss only",
    "none": "No conditioning",
    "moco": "MoCo, no location",
}
TASKS = {
    "emphysema_extent": "emphysema extent",
    "gold_stage": "GOLD stage",
    "survival": "survival",
    "fev1pp": "FEV1 % predicted",
    "fev1_fvc": "FEV1/FVC",
    "visual_emphysema": "visual emphysema score",
    "mmrc": "mMRC dyspnoea",
    "exacerbations": "exacerbations before the scan",
    "exacerbation_count": "number of exacerbations before the scan",
    "future_exacerbations": "exacerbations after the scan",
    "future_exacerbation_count": "number of exacerbations after the scan",
    "emphysema": "emphysema detection",
    "emphysema_subtypes": "emphysema subtypes",
    "nodules": "nodule segmentation",
    "lobes": "lobe segmentation",
}
# Metrics that no task of this version has, but a table may.
LOWER_IS_BETTER = frozenset({"rmse", "mse", "ece", "hd95", "log_loss"})
MINUS, DASH = "\u2212", "\u2013"

_PATH = re.compile(
    r"""(?:[a-z][a-z0-9+.-]*://\S+)                                  # s3://bucket/...
      | (?:(?<![\w.])[A-Za-z]:[\\/]\S+)                              # C:\...
      | (?:\\\\\S+)                                                  # \\server\...
      | (?:(?<![\w.)\]])(?:~|\.{1,2})?/[^\s/'"]+(?:/[^\s'"]*)?)      # /home/..., ~/..., ../...
      | (?:[^\s'"]*\.(?:nii(?:\.gz)?|mha|mhd|nrrd|nhdr|dcm|ima|img|hdr)\b)  # anything named as a CT file
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_paths(text: object) -> str:
    """The text with every path, address and CT file name replaced by "[path]": they may carry a patient's name."""
    return _PATH.sub("[path]", "" if missing(text) else str(text))


def missing(value: object) -> bool:
    """None, NaN, NaT or an empty string."""
    return (
        value is None or value == "" or (not isinstance(value, (list, tuple, dict)) and bool(pd.isna(value)))
    )


def initialisation(name: str) -> str:
    """Display name of an initialisation."""
    return INITIALISATIONS.get(name, plain(name))


def task(name: str) -> str:
    """Display name of a task, for use inside a sentence."""
    return TASKS.get(name, plain(name))


def metric(name: str) -> str:
    """Display name of a metric."""
    title = title_of(name)
    return title.replace("R2", "R²") if title else plain(name)


def lower_is_better(metric_name: str) -> bool:
    """Whether a smaller value of the metric is the better one."""
    if metric_name in SCORES:
        return not SCORES[metric_name].higher_is_better
    return metric_name in LOWER_IS_BETTER


def leading_metric(names: Iterable[str]) -> str:
    """The main metric of a task: the first one in the tables."""
    return next(iter(names))


def sentence(text: str) -> str:
    """First letter in upper case, the rest as it is."""
    return text[:1].upper() + text[1:]


def short(text: str, most: int = 20) -> str:
    """The text, shortened to `most` characters for use in a chart."""
    return text if len(text) <= most else text[: most - 1] + "…"


def slug(name: str) -> str:
    """A name that is safe as an HTML id and as a file name."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name.lower()).strip("-") or "x"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a typographic minus sign; a dash for a missing value."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def significant(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, without an exponent."""
    if value is None or math.isnan(value) or math.isinf(value) or value == 0:
        return number(value, 0)
    return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def digits_for(value: float | None, low: float | None = None, high: float | None = None) -> int:
    """Number of decimals, two to four, that shows the width of an interval with two digits."""
    if value is None or math.isnan(value):
        return 2
    width = abs((high if high is not None else value) - (low if low is not None else 0.0))
    if not math.isfinite(width) or width < ROUNDING:
        return 2
    return int(min(4, max(2, 1 - math.floor(math.log10(width)))))


def interval(low: float, high: float, digits: int = 2) -> str:
    """The ends of an interval."""
    return f"{number(low, digits)} to {number(high, digits)}"


def estimate(value: float, low: float, high: float) -> str:
    """A value with its interval."""
    digits = digits_for(value, low, high)
    return f"{number(value, digits)} ({interval(low, high, digits)})"


def p_value(p: float) -> str:
    """A p value in the format of journals."""
    if math.isnan(p):
        return f"p {DASH}"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def percent(value: float) -> str:
    """A share as per cent."""
    return f"{100 * value:.0f}%" if value >= 0.01 or value == 0 else f"{100 * value:.1f}%"


def count(n: int, singular: str, plural: str = "") -> str:
    """ "1 scan", "48 scans"."""
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """A duration in seconds, minutes or hours, by its size."""
    if math.isnan(seconds):
        return DASH
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def listing(parts: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    items = list(parts)
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def generated() -> str:
    """When and by which version a page is made."""
    return f"Generated {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by drasclr {__version__}."


def plain(name: str) -> str:
    """A name of the code with spaces for underscores."""
    return name.replace("_", " ")
