"""Gallery of quality-control overlays: the worst scans and a random sample, small enough for one page."""

from __future__ import annotations

import hashlib
import io

import pandas as pd
from PIL import Image as Picture

from ctplatform.dataset.ledger import worst_first
from ctplatform.report import words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Image, Omitted, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.storage.layout import overlay

TITLE = "Quality-control overlays"
BUDGET = 5_000_000  # bytes of all images together; base64 adds a third, and the page stays below about 8 MB
# Width in pixels and WebP quality, tried in turn until the gallery fits.
STEPS = ((1100, 80), (900, 72), (720, 65), (560, 55), (420, 45), (320, 35))


def section(inputs: Inputs) -> Section | Omitted:
    """Overlays of the worst scans by state and Dice, then of a sample drawn by the scan ids."""
    if not inputs.recipe.report.gallery:
        return Omitted(TITLE, "report.gallery is 0")
    rows = inputs.ledger[inputs.ledger["scan_id"].isin(inputs.overlays)]
    if rows.empty:
        return Omitted(TITLE, "no overlay has been written (prepare.overlays)")
    worst, sample = choose(rows, inputs.recipe.report.gallery)
    chosen = [str(scan) for scan in (*worst["scan_id"], *sample["scan_id"])]
    loaded = {scan: load(inputs.workspace.read_bytes(*overlay(scan))) for scan in chosen}
    unreadable = [scan for scan in chosen if loaded[scan] is None]
    worst, sample = (part[~part["scan_id"].isin(unreadable)] for part in (worst, sample))
    pictures = compressed([picture for picture in loaded.values() if picture is not None])
    figures = []
    for name, title, part, start in (
        ("gallery-worst", "The worst scans, by state and then by overlap with the atlas", worst, 0),
        ("gallery-sample", "A random sample of the other scans", sample, len(worst)),
    ):
        if not len(part):
            continue
        figures.append(
            Figure(
                name=name,
                title=title,
                caption=(
                    "CT with the outline of the lung mask and the atlas locations mapped into the scan. Select an "
                    "image to enlarge it. "
                    + (
                        "Rejected before flagged before accepted scans, each by ascending Dice."
                        if name == "gallery-worst"
                        else "Drawn by a hash of the scan ids, so that the same cohort gives the same sample."
                    )
                ),
                n=f"{len(part)} of {words.count(len(rows), 'scan')} with an overlay",
                interval="single scans, no interval",
                command=command("prepare", inputs.recipe),
                images=[_image(row, *pictures[start + i]) for i, row in enumerate(part.itertuples())],
                tables=[_table(part)],
            )
        )
    return Section(
        "gallery",
        TITLE,
        [
            "Numbers can miss a failure: a mirrored scan can have a high Dice. Check these overlays before the results."
        ],
        figures=figures,
        notices=[
            f"The overlay of {scan} cannot be read. Run `drasclr prepare` again after deleting the scan's ledger row."
            for scan in unreadable
        ],
    )


def choose(rows: pd.DataFrame, total: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The worst half by state, then Dice (missing counts as worst), and a sample of the rest.

    The sample depends on the ids alone.
    """
    order = worst_first(rows)
    worst, rest = order.iloc[: (total + 1) // 2], order.iloc[(total + 1) // 2 :]
    key = rest["scan_id"].map(lambda scan: hashlib.sha256(str(scan).encode()).hexdigest())
    return worst, rest.loc[key.sort_values().index[: total // 2]]


def load(data: bytes) -> Picture.Image | None:
    """The decoded image; None if it cannot be read."""
    try:
        return Picture.open(io.BytesIO(data)).convert("RGB")
    except OSError:  # raised by Pillow for other data as well as for a truncated image
        return None


def compressed(originals: list[Picture.Image]) -> list[tuple[bytes, int, int]]:
    """WebP data, width and height of each image, reduced until all fit into `BUDGET`."""
    for width, quality in STEPS:
        pictures = [_webp(original, width, quality) for original in originals]
        if sum(len(data) for data, _, _ in pictures) <= BUDGET:
            break
    return pictures


def _webp(picture: Picture.Image, width: int, quality: int) -> tuple[bytes, int, int]:
    if picture.width > width:
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Picture.Resampling.LANCZOS
        )
    stream = io.BytesIO()
    # Re-encoding also drops any text chunk of the PNG.
    picture.save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue(), picture.width, picture.height


def _image(row: object, data: bytes, width: int, height: int) -> Image:
    dice, state = float(row.dice), str(row.state)  # type: ignore[attr-defined]
    scan, reason = str(row.scan_id), words.without_paths(row.reason)  # type: ignore[attr-defined]
    return Image(
        name=scan,
        data=data,
        kind="image/webp",
        width=width,
        height=height,
        alt=f"CT overlay of scan {scan}: {state}, Dice {words.number(dice)}. {reason}".strip(),
        state=state,
        lines=[line for line in (f"Dice {words.number(dice)}", reason) if line],
    )


def _table(part: pd.DataFrame) -> Table:
    return Table(
        "Scans shown",
        ("Scan", "State", "Dice", "Right", "Left", "Volume (l)", "Reason"),
        [
            (
                str(row.scan_id),
                str(row.state),
                words.number(row.dice, 3),
                words.number(row.dice_right, 3),
                words.number(row.dice_left, 3),
                words.number(row.volume_l),
                words.without_paths(row.reason),
            )
            for row in part.itertuples()
        ],
        numeric=frozenset({2, 3, 4, 5}),
    )
