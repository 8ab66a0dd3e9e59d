"""The page on export: its snippet runs on what its command writes."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from ctplatform.cli.main import main
from drasclr import weights
from drasclr.encoder import Encoder
from tests.conftest import ROOT


def test_the_onnx_snippet(small_atlas, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    page = (ROOT / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    weights.save(
        tmp_path / "out" / "pretrain" / "RUN", Encoder(2).eval(), {}, atlas=small_atlas, template=b"mask"
    )
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"\$ drasclr (export .*--to onnx.*)", page)
    main(shlex.split(command))
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope: dict = {}
    exec(code, scope)
    assert scope["features"].shape == (small_atlas.num_locations, 128)
    assert np.isfinite(scope["features"]).all()
