"""The choice of a segmenter by the recipe."""

from __future__ import annotations

import SimpleITK as sitk

from ctplatform.config.preparation import LungsConfig
from ctplatform.lungs.mask import LungMask
from ctplatform.lungs.segmenter import SEGMENTERS, make_segmenter


def test_the_recipe_chooses_the_segmenter(monkeypatch, subject):
    """Whatever stands in the registry under the recipe's name is what masks the scan."""
    image, truth = subject

    class Known:
        def __init__(self, config: LungsConfig) -> None:
            self.config = config

        def __call__(self, image: sitk.Image) -> LungMask:
            return LungMask(truth, {"volume_l": self.config.spacing_mm}, ("as given",))

    monkeypatch.setitem(SEGMENTERS, "lungmask", Known)
    mask = make_segmenter(LungsConfig.model_validate({"segmenter": "lungmask", "spacing_mm": 4.5}))(image)
    assert (mask.labels, mask.measures, mask.notes) == (truth, {"volume_l": 4.5}, ("as given",))
