"""The lung segmenter of the package `lungmask`: a U-Net on the scan's own slices."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import ScanError, StageError
from ctplatform.lungs.coarse_grid import CoarseGrid, shrink
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.measures import mask_measures


@dataclass(frozen=True)
class LungmaskSegmenter:
    """The U-Net R231, which counts consolidation and effusion as lung; minutes a scan on a CPU.

    Attributes:
        spacing_mm: of the resulting mask, about.
        weights: file with the weights; None: the package downloads its own.

    Source: Hofmanninger et al., European Radiology Experimental 2020, doi:10.1186/s41747-020-00173-2.
    """

    spacing_mm: float = 3.0
    weights: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("lungmask") is None:
            raise StageError(
                "prepare.lungs.segmenter is lungmask, and the package lungmask is not installed",
                "Run: pip install 'drasclr[lungmask]', on every machine; or set prepare.lungs.segmenter=classical",
                code="not-installed",
            )

    def __call__(self, image: sitk.Image) -> LungMask:
        """Segment one scan."""
        native_ZYX = _lungmask_model(self.weights).apply(image)
        native = sitk.GetImageFromArray(np.array([0, RIGHT, LEFT], np.uint8)[native_ZYX])
        native.CopyInformation(image)
        coarse = shrink(image, self.spacing_mm)
        labels = sitk.Resample(
            native, coarse, sitk.Transform(), sitk.sitkNearestNeighbor, 0.0, sitk.sitkUInt8
        )
        labels_ZYX = sitk.GetArrayViewFromImage(labels)
        if not labels_ZYX.any():
            raise ScanError(
                "no lung was found in the scan",
                "Check that it is a CT of the chest in Hounsfield units; else exclude it",
                code="no-lung",
            )
        scan = CoarseGrid(sitk.GetArrayFromImage(coarse), coarse.GetSpacing())
        return LungMask(labels, mask_measures(scan, labels_ZYX))


@lru_cache(maxsize=1)
def _lungmask_model(weights: str | None) -> Any:
    """The model, loaded once a process."""
    from lungmask import LMInferer

    return LMInferer(modelname="R231", modelpath=weights, tqdm_disable=True)
