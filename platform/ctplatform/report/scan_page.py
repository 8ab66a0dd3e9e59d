"""A scan as one HTML page that loads nothing: three planes with a cross-hair, mask, locations, labels.

`scan_page` draws slices by itself. `volume_page` has NiiVue in it, which adds a rendering and needs WebGL2.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from ctplatform.report import style, words
from ctplatform.report.page import HERE, template

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctplatform.report.niivue import NiiVue
    from ctplatform.report.scan_view import ScanView

LABEL_COLOURS = (style.VERMILION, style.GREEN, style.PURPLE, style.SKY, style.ORANGE, style.BLUE, style.WINE)


DOT_MM = 2.5
"""Radius of a location's dot in the volumes of `volume_page`."""


def scan_page(view: ScanView) -> str:
    """The complete HTML document. Voxels are in it, compressed; the browser's own functions unpack them."""
    labels = _labels(view)
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
        meta=_json(meta),
        voxels={name: Markup(_packed(array)) for name, array in voxels.items()},
        css=Markup((HERE / "scan_page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "scan_page.js").read_text(encoding="utf-8")),
        generated=words.generated(),
    )


def volume_page(view: ScanView, niivue: NiiVue) -> str:
    """The complete HTML document with the viewer and the volumes, as NIfTI, in it."""
    labels = _labels(view)
    volumes: dict[str, np.ndarray] = {"ct": view.hu_ZYX, "mask": view.mask_ZYX}
    if len(view.centres_mm_N3):
        volumes["locations"] = dots(view)
    if view.labels_ZYX is not None:
        volumes["labels"] = view.labels_ZYX
    return template("volume_page.html.jinja").render(
        view=view,
        niivue=niivue,
        labels=labels,
        meta=_json({"centres": view.centres_mm_N3.round(1).tolist(), "labels": labels}),
        volumes={name: Markup(_nifti(view, array)) for name, array in volumes.items()},
        css=Markup((HERE / "scan_page.css").read_text(encoding="utf-8")),
        viewer=Markup(niivue.script.replace("</script", "<\\/script")),
        script=Markup((HERE / "volume_page.js").read_text(encoding="utf-8")),
        generated=words.generated(),
    )


def dots(view: ScanView) -> NDArray[np.uint8]:
    """1 within `DOT_MM` of a location of the atlas, on the view's grid."""
    painted_ZYX = np.zeros(view.hu_ZYX.shape, np.uint8)
    reach = int(np.ceil(DOT_MM / view.spacing_mm))
    steps_K3 = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for centre_mm_3 in view.centres_mm_N3:
        centre_3 = (centre_mm_3 - view.origin_mm) / view.spacing_mm
        voxels_K3 = np.rint(centre_3).astype(int) + steps_K3
        near_K = np.linalg.norm(voxels_K3 - centre_3, axis=1) * view.spacing_mm <= DOT_MM
        inside_K = ((voxels_K3 >= 0) & (voxels_K3 < painted_ZYX.shape[::-1])).all(1)
        x, y, z = voxels_K3[near_K & inside_K].T
        painted_ZYX[z, y, x] = 1
    return painted_ZYX


def _labels(view: ScanView) -> list[dict[str, Any]]:
    return [
        {"value": value, "name": name, "colour": LABEL_COLOURS[i % len(LABEL_COLOURS)]}
        for i, (value, name) in enumerate(view.names.items())
    ]


def _json(meta: dict[str, Any]) -> Markup:
    """Without "<" no text of the data can end the script element."""
    return Markup(json.dumps(meta).replace("<", "\\u003c"))


def _nifti(view: ScanView, array_ZYX: np.ndarray) -> str:
    """A volume on the view's grid as compressed NIfTI, in base64."""
    import nibabel as nib

    x, y, z = view.origin_mm
    affine_44 = np.diag([-view.spacing_mm, -view.spacing_mm, view.spacing_mm, 1.0])
    affine_44[:3, 3] = -x, -y, z
    image = nib.Nifti1Image(np.ascontiguousarray(array_ZYX.transpose(2, 1, 0)), affine_44)
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(array.tobytes(), 6, mtime=0)).decode()
