"""The lung segmenter of the package `TotalSegmentator`: the five lobes of its task "total"."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from ctplatform.errors import StageError
from ctplatform.imaging.label_map import image_of, read_labels
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.network_mask import network_mask

LOBES = {10: LEFT, 11: LEFT, 12: RIGHT, 13: RIGHT, 14: RIGHT}
"""Lung by the label of each lobe: left upper and lower, right upper, middle and lower, in version 2 of the package."""


@dataclass(frozen=True)
class TotalSegmentatorSegmenter:
    """The nnU-Net of 3 mm; minutes a scan on a CPU. The package downloads its weights into the user's home.

    Code and weights of this task are under the Apache License 2.0; other tasks of the package need a licence. Its
    usage statistics are switched off in the user's configuration of the package.

    Attributes:
        spacing_mm: of the resulting mask, about.

    Source: Wasserthal et al., Radiology: Artificial Intelligence 2023, doi:10.1148/ryai.230024.
    """

    spacing_mm: float = 3.0

    def __post_init__(self) -> None:
        if importlib.util.find_spec("totalsegmentator") is None:
            raise StageError(
                "prepare.lungs.segmenter is totalsegmentator, and the package TotalSegmentator is not installed",
                "Run: pip install 'drasclr[totalsegmentator]', on every machine; or set "
                "prepare.lungs.segmenter=classical",
                code="not-installed",
            )

    def __call__(self, image: sitk.Image) -> LungMask:
        """Segment one scan: int16 HU, axes in LPS order.

        Raises:
            ScanError: no-lung.
        """
        from totalsegmentator.config import set_config_key, setup_totalseg
        from totalsegmentator.python_api import totalsegmentator

        setup_totalseg()
        set_config_key("send_usage_stats", False)
        with tempfile.TemporaryDirectory(prefix="scan-") as folder:
            scan, labels = Path(folder, "scan.nii.gz"), Path(folder, "labels.nii.gz")
            sitk.WriteImage(image, str(scan))
            totalsegmentator(scan, labels, ml=True, task="total", fast=True, quiet=True, nr_thr_saving=1)
            stored = read_labels(str(labels))
        lungs = image_of(lungs_of_lobes(stored.volume.values_ZYX), stored.volume)
        return network_mask(lungs, image, spacing_mm=self.spacing_mm)


def lungs_of_lobes(values_ZYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels of the task "total" as those of both lungs; everything but lobes is 0."""
    lungs_ZYX = np.zeros(values_ZYX.shape, np.uint8)
    for lobe, lung in LOBES.items():
        lungs_ZYX[values_ZYX == lobe] = lung
    return lungs_ZYX
