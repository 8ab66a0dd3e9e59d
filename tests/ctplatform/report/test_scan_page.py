"""The page of one scan: its voxels come out of it as they went in, and a browser shows them, offline."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np
import pytest

from ctplatform.report.scan_page import scan_page
from ctplatform.report.scan_view import ScanView
from tests.ctplatform.report.test_browser import opened
from tests.ctplatform.report.workspace import EVIL


def a_view(*, name: str = "scan 1", labelled: bool = True) -> ScanView:
    """24 x 20 x 16 voxels of 2 mm: HU counts along x; the right lung on the left half; a label in one corner."""
    hu_ZYX = np.broadcast_to(np.arange(24) * 10 - 1000, (16, 20, 24)).astype(np.int16)
    mask_ZYX = np.zeros((16, 20, 24), np.uint8)
    mask_ZYX[2:14, 2:18, 2:11], mask_ZYX[2:14, 2:18, 13:22] = 50, 100
    labels_ZYX = np.zeros_like(mask_ZYX)
    labels_ZYX[:8, :10, :12] = 1
    return ScanView(
        name=name,
        verdict="flagged: Dice 0.7",
        spacing_mm=2.0,
        origin_mm=(-10.0, 5.0, 100.0),
        hu_ZYX=hu_ZYX,
        mask_ZYX=mask_ZYX,
        labels_ZYX=labels_ZYX if labelled else None,
        names={1: f"{name} nodule"} if labelled else {},
        centres_mm_N3=np.array([[0.0, 20.0, 116.0], [20.0, 20.0, 116.0]]),
        patch_mm=12.0,
    )


def voxels(html: str, name: str) -> bytes:
    (text,) = re.findall(rf'id="voxels-{name}">([^<]*)<', html)
    return gzip.decompress(base64.b64decode(text))


def test_voxels_and_places_are_in_the_page():
    view = a_view()
    html = scan_page(view)
    found = np.frombuffer(voxels(html, "ct"), "<i2").reshape(16, 20, 24)
    np.testing.assert_array_equal(found, view.hu_ZYX)
    np.testing.assert_array_equal(np.frombuffer(voxels(html, "labels"), np.uint8), view.labels_ZYX.ravel())
    meta = json.loads(re.findall(r'id="meta">(.*?)</script>', html)[0])
    assert (meta["size"], meta["spacing"]) == ([24, 20, 16], 2.0)
    assert meta["centres"] == [[0, 20, 116], [20, 20, 116]]
    assert "voxels-labels" not in scan_page(a_view(labelled=False))


def test_names_are_text():
    html = scan_page(a_view(name=EVIL + "</script>"))
    assert EVIL not in html
    assert html.count("<script") == html.count("</script>") == 5


@pytest.mark.browser
def test_the_scan_in_a_browser(browser, tmp_path):
    from playwright import sync_api

    page = tmp_path / "scan.html"
    page.write_text(scan_page(a_view()), encoding="utf-8")
    tab, troubles = opened(browser, str(page), width=1366)
    pixel = """([name, u, v]) => [...document.getElementById(name).getContext('2d')
        .getImageData(3 * u + 1, 3 * v + 1, 1, 1).data.slice(0, 3)]"""
    try:
        readout = tab.locator("#readout")
        sync_api.expect(readout).to_contain_text("HU")
        assert readout.text_content().startswith("14.0, 25.0, 116.0 mm")
        assert "-880 HU" in readout.text_content()
        assert "nearest location 1" in readout.text_content()
        for control in ("#show-mask", "#show-locations", "#show-labels"):
            tab.uncheck(control)
        tab.select_option("#window", "-1024,1024")
        # x grows to the right in the axial plane; the head is up in the coronal one.
        left, right = (tab.evaluate(pixel, ["axial", u, 4])[0] for u in (1, 22))
        assert left == pytest.approx((1024 - 990) / 2048 * 255, abs=2)
        assert right == pytest.approx((1024 - 780) / 2048 * 255, abs=2)
        # A click moves the cross-hair: to the labelled corner of the right lung.
        box = tab.locator("#coronal").bounding_box()
        tab.mouse.click(box["x"] + box["width"] * 4.5 / 24, box["y"] + box["height"] * 10.5 / 16)
        slider = tab.locator("#slice-coronal")
        slider.fill("5")
        text = readout.text_content()
        assert text.startswith("-2.0, 15.0, 110.0 mm")
        assert ("-960 HU" in text, "right lung" in text, "scan 1 nodule" in text) == (True, True, True)
        assert "nearest location 0" in text
        before = tab.evaluate(pixel, ["coronal", 8, 12])
        tab.check("#show-labels")
        red, _, blue = tab.evaluate(pixel, ["coronal", 8, 12])  # below the middle: towards the feet
        assert before[0] == before[2]
        assert red > blue + 40
        assert tab.evaluate(pixel, ["coronal", 8, 4]) == tab.evaluate(pixel, ["coronal", 8, 4])[:1] * 3
        tab.locator("#coronal").hover()
        tab.mouse.wheel(0, 100)
        sync_api.expect(slider).to_have_value("6")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1366
        # Chromium's advice on how this test reads pixels.
        assert [trouble for trouble in troubles if "willReadFrequently" not in trouble] == []
    finally:
        tab.close()
