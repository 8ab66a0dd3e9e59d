"""The U-Net segmenter of the package lungmask."""

from __future__ import annotations

import importlib.util

import pytest

from ctplatform.config.preparation import LungsConfig
from ctplatform.errors import StageError
from ctplatform.lungs.segmenter import make_segmenter


def test_lungmask_says_how_to_install_it():
    if importlib.util.find_spec("lungmask"):
        pytest.skip("lungmask is installed")
    with pytest.raises(StageError, match="lungmask is not installed") as caught:
        make_segmenter(LungsConfig.model_validate({"segmenter": "lungmask"}))
    assert "pip install 'drasclr[lungmask]'" in caught.value.remedy
