"""The page on running another encoder: its encoders work, and its recipe is one."""

from __future__ import annotations

import re
import sys
import types

import numpy as np
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.inference.own_encoder import checked, own_encoder
from tests.conftest import ROOT


def from_page(number: int, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's text; its Python block of this number can be imported under a name."""
    page = (ROOT / "docs" / "how-to" / "own-network.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 2
    module = types.ModuleType(name)
    exec(blocks[number], module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return page


def test_the_encoders_of_the_page_are_found_and_encode(monkeypatch):
    page = from_page(0, "my_encoders", monkeypatch)
    recipe = load_recipe("fast", re.findall(r"--set (\S+:(?:Patches|Volume))", page))
    assert recipe.sweep.initialisations[-2:] == ("patches", "volume")
    target = recipe.sweep.encoders["patches"]
    hu_NDHW = np.full((2, 32, 32, 32), -800, np.int16)
    vectors = own_encoder(target).encode_patches(hu_NDHW, np.zeros((2, 3), np.float32))
    assert checked(vectors, target=target, count=2).shape == (2, 512)
    target = recipe.sweep.encoders["volume"]
    vector = own_encoder(target).encode_volume(np.full((40, 60, 60), -800, np.int16), (2.0, 1.0, 1.0))
    assert checked(vector, target=target).shape == (512,)


def test_the_trained_encoder_of_the_page_encodes(monkeypatch):
    page = from_page(1, "slice_encoder", monkeypatch)
    (override,) = re.findall(r"--set (\S+:Slices)", page)
    target = load_recipe("fast", [override]).sweep.encoders["efficientnet"]
    hu_NDHW = np.full((3, 32, 32, 32), -800, np.int16)
    hu_NDHW[1, 10:20] = 0
    vectors_NP = checked(
        own_encoder(target).encode_patches(hu_NDHW, np.zeros((3, 3), np.float32)), target=target, count=3
    )
    assert vectors_NP.shape == (3, 1280)
    np.testing.assert_allclose(vectors_NP[0], vectors_NP[2], rtol=1e-5, atol=1e-6)
    assert np.abs(vectors_NP[0] - vectors_NP[1]).max() > 0.1
