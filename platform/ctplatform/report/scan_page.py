"""A scan as one HTML page that needs nothing but a browser: three planes with a cross-hair, mask, locations, labels."""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING

from markupsafe import Markup

from ctplatform.report import style, words
from ctplatform.report.page import HERE, template

if TYPE_CHECKING:
    import numpy as np

    from ctplatform.report.scan_view import ScanView

LABEL_COLOURS = (style.VERMILION, style.GREEN, style.PURPLE, style.SKY, style.ORANGE, style.BLUE, style.WINE)


def scan_page(view: ScanView) -> str:
    """The complete HTML document. Voxels are in it, compressed; the browser's own functions unpack them."""
    labels = [
        {"value": value, "name": name, "colour": LABEL_COLOURS[i % len(LABEL_COLOURS)]}
        for i, (value, name) in enumerate(view.names.items())
    ]
    meta = {
        "size": list(view.hu_ZYX.shape[::-1]),
        "spacing": view.spacing_mm,
        "origin": [float(v) for v in view.origin_mm],
        "centres": [[round(float(v), 1) for v in centre] for centre in view.centres_mm_N3],
        "patch": view.patch_mm,
        "labels": labels,
    }
    voxels = {"ct": view.hu_ZYX.astype("<i2"), "mask": view.mask_ZYX}
    if view.labels_ZYX is not None:
        voxels["labels"] = view.labels_ZYX
    return template("scan_page.html.jinja").render(
        view=view,
        labels=labels,
        # Without "<" no text of the data can end the script element.
        meta=Markup(json.dumps(meta).replace("<", "\\u003c")),
        voxels={name: Markup(_packed(array)) for name, array in voxels.items()},
        css=Markup((HERE / "scan_page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "scan_page.js").read_text(encoding="utf-8")),
        generated=words.generated(),
    )


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(array.tobytes(), 6, mtime=0)).decode()
