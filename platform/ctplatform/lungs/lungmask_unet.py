"""The lung segmenter of the package `lungmask`: a U-Net on the scan's own slices."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import StageError
from ctplatform.lungs.mask import LEFT, RIGHT, LungMask
from ctplatform.lungs.network_mask import network_mask


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
        """Segment one scan: int16 HU, axes in LPS order.

        Raises:
            ScanError: no-lung.
        """
        native_ZYX = _lungmask_model(self.weights).apply(image)
        native = sitk.GetImageFromArray(np.array([0, RIGHT, LEFT], np.uint8)[native_ZYX])
        native.CopyInformation(image)
        return network_mask(native, image, spacing_mm=self.spacing_mm)


@lru_cache(maxsize=1)
def _lungmask_model(weights: str | None) -> Any:
    """The model, loaded once a process."""
    from lungmask import LMInferer

    return LMInferer(modelname="R231", modelpath=weights, tqdm_disable=True)
