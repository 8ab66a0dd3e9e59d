"""The page on other encoders: its table of vectors is one that the sweep reads."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from ctplatform.config.loader import load_recipe
from ctplatform.inference.external import read_external
from tests.conftest import ROOT


def test_the_table_of_the_page_is_read(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "how-to" / "own-encoder.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"scan_id": ["007", "b"], "path": ["x", "yyy"]}).to_csv("cohort.csv", index=False)
    exec(code, {"encode": lambda path: np.arange(3.0) * len(path)})
    table, folder = dict.fromkeys(item.strip("`.") for item in re.findall(r"--set (\S+)", page))
    recipe = load_recipe("fast", [table])
    assert recipe.sweep.initialisations[-1] == "theirs"
    ids, x_NP = read_external(recipe.sweep.external["theirs"])
    assert ids == ["007", "b"]
    assert x_NP.tolist() == [[0, 1, 2], [0, 3, 6]]
    (tmp_path / "theirs").mkdir()
    np.savez(tmp_path / "theirs" / "007.npz", vector=np.arange(3.0))
    assert read_external(load_recipe("fast", [folder]).sweep.external["theirs"])[0] == ["007"]
