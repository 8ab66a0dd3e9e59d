"""`drasclr predict` with a model of label maps: a map a scan, and a row with what it holds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.errors import PlatformError, ScanError

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.evaluation.dense.label_map_model import LabelledScan, LabelMapModel
    from ctplatform.inference.model_folder import ModelFolder

SUFFIX, SEGMENTATION_SUFFIX = ".nii.gz", ".dcm"


def make_label_maps(
    scans: Sequence[str], *, model: ModelFolder, weights: str, folder: Path, segmentations: bool
) -> pd.DataFrame:
    """Write the maps, one scan after the other; a row a scan.

    Args:
        scans: files, folders, URIs or scan tables.
        model: the folder of a kept model.
        weights: of the model's encoder.
        folder: where maps go.
        segmentations: also as DICOM SEG, where a scan is DICOM.

    Raises:
        PlatformError: the model does not fit the weights, or maps cannot be written.
    """
    import pandas as pd

    from ctplatform.cli.embed import load_model
    from ctplatform.cohort.given_scans import LISTED, given_scans
    from ctplatform.config.cluster import RayConfig
    from ctplatform.evaluation.dense.label_map_model import ScanLabeller, label_map_model_of
    from ctplatform.imaging.label_writer import is_dicom

    kept = label_map_model_of(model)
    labeller = ScanLabeller(kept, load_model(weights))
    items = given_scans(scans, ray_config=RayConfig()).table.to_dict("records")
    if (
        segmentations
        and any(is_dicom(str(item["path"])) for item in items)
        and importlib.util.find_spec("highdicom") is None
    ):
        raise PlatformError(
            "DICOM SEG is written by highdicom, which is not installed",
            "pip install 'drasclr[seg]', or give --no-seg for NIfTI alone",
            code="extra",
        )
    rows = []
    for done, item in enumerate(items, 1):
        scan = labeller(item)
        row = {name: value for name, value in scan.row.items() if name not in ("code", "remedy")}
        if not item[LISTED]:
            row["path"] = item["path"]
        rows.append(row | _write(scan, kept, item, folder, segmentation=segmentations))
        if len(items) > 1:
            print(f"\r{done}/{len(items)}", end="\n" if done == len(items) else "", file=sys.stderr)
    return pd.DataFrame(rows)


def _write(
    scan: LabelledScan, model: LabelMapModel, item: dict[str, Any], folder: Path, *, segmentation: bool
) -> dict[str, str]:
    """Write one scan's maps: `label_map` and `segmentation` are their paths, `note` says what is missing."""
    from ctplatform import __version__
    from ctplatform.imaging.label_writer import is_dicom, write_nifti, write_segmentation

    if scan.labels is None:
        return {}
    path, title = str(item["path"]), str(model.card["task"]["title"])
    nifti = folder / f"{item['scan_id']}{SUFFIX}"
    write_nifti(scan.labels, path, nifti)
    written = {"label_map": str(nifti)}
    if segmentation and is_dicom(path):
        output = folder / f"{item['scan_id']}{SEGMENTATION_SUFFIX}"
        try:
            write_segmentation(
                scan.labels,
                model.classes,
                path,
                output,
                series_uid=str(item["series_uid"] or ""),
                title=title,
                software=__version__,
            )
            written["segmentation"] = str(output)
        except ScanError as error:
            written["note"] = f"{error.problem}. {error.remedy}"
    return written
