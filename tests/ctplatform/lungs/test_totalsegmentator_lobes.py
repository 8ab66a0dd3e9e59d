"""TotalSegmentator's lobes as right and left lung, and what is said where the package is missing."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from ctplatform.config.preparation import LungsConfig
from ctplatform.errors import StageError
from ctplatform.lungs.mask import LEFT, RIGHT
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.lungs.totalsegmentator_lobes import LOBES, lungs_of_lobes

#: Labels of version 2, as its README lists them (task "total").
NAMES = {
    5: "liver", 6: "stomach", 9: "adrenal_gland_left", 10: "lung_upper_lobe_left", 11: "lung_lower_lobe_left",
    12: "lung_upper_lobe_right", 13: "lung_middle_lobe_right", 14: "lung_lower_lobe_right", 15: "esophagus",
    16: "trachea", 51: "heart", 117: "costal_cartilages",
}  # fmt: skip


def test_lobes_are_lungs_of_their_side_and_nothing_else_is():
    values_ZYX = np.array([0, *NAMES], np.uint8).reshape(1, 1, -1)
    found = dict(zip([0, *NAMES], lungs_of_lobes(values_ZYX).ravel().tolist(), strict=True))
    for label, name in NAMES.items():
        right = {"left": LEFT, "right": RIGHT}[name.rpartition("_")[2]] if "lobe" in name else 0
        assert found[label] == right, name
    assert found[0] == 0
    assert lungs_of_lobes(values_ZYX).dtype == np.uint8
    assert lungs_of_lobes(values_ZYX.astype(float) + 256).max() == 0, "labels beyond 8 bits are no lobes"


def test_the_installed_package_has_these_labels():
    maps = pytest.importorskip("totalsegmentator.map_to_binary", reason="TotalSegmentator is not installed")
    total = maps.class_map["total"]
    assert {label for label, name in total.items() if name.startswith("lung_")} == set(LOBES)
    assert all(total[label] == name for label, name in NAMES.items())


def test_it_says_how_to_install_it():
    if importlib.util.find_spec("totalsegmentator"):
        pytest.skip("TotalSegmentator is installed")
    with pytest.raises(StageError, match="TotalSegmentator is not installed") as caught:
        make_segmenter(LungsConfig.model_validate({"segmenter": "totalsegmentator"}))
    assert "pip install 'drasclr[totalsegmentator]'" in caught.value.remedy
    assert caught.value.code == "not-installed"
