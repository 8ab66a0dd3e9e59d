"""The page of nearest patients: self-contained, escaped, with a picture a place."""

from __future__ import annotations

import re

import numpy as np

from ctplatform.dataset import shards
from ctplatform.inference.nearest import Nearest, Neighbour, Query
from ctplatform.report.nearest_page import nearest_page
from tests.ctplatform.report.workspace import EVIL


def test_pictures_and_numbers_of_each_place(evaluated):
    scans = [name.removesuffix(".parquet") for name in evaluated.files("patches")][:3]
    _, hu = shards.read_patches(evaluated, scans[0])
    query = Query(f"{EVIL}scan", "s", np.zeros(3), hu)
    others = [Neighbour(scan, f"subject of {scan}", 0.5) for scan in scans[1:]]
    found = Nearest(query, "run", 40, others, {0: others, 1: []}, {0: [1.0, -2.0, 3.0], 1: [0.0, 0.0, 0.0]})
    html = nearest_page(evaluated, found, window=(-1024, 240))
    # Two places by the patient's vector, and one by the patch: nobody is near at the other.
    assert len(re.findall(r'<img src="data:image/png;base64,', html)) == 3
    assert f"subject of {scans[1]}" in html
    assert EVIL not in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
