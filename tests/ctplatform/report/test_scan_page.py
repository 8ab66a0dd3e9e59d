"""The page of one scan: its voxels come out of it as they went in, and a browser shows them, offline."""

from __future__ import annotations

import base64
import gzip
import json
import re

import numpy as np
import pytest

from ctplatform.report.niivue import INSTALL, NiiVue, installed
from ctplatform.report.scan_page import dots, scan_page, volume_page
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


def test_volumes_are_in_the_page_as_nifti():
    import nibabel as nib

    view = a_view()
    html = volume_page(view, NiiVue("window.niivue = '</script>'", "1.2.3", "BSD-2-Clause"))
    assert (
        html.count("<script") == html.count("</script>") == 1 + 4 + 2
    )  # facts, volumes, NiiVue and the page's own
    assert "NiiVue 1.2.3 (niivue.com, BSD-2-Clause)" in html
    found = {}
    for name in ("ct", "mask", "labels", "locations"):
        (text,) = re.findall(rf'id="volume-{name}">([^<]*)<', html)
        found[name] = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
    np.testing.assert_array_equal(found["ct"].get_fdata(), view.hu_ZYX.transpose(2, 1, 0))
    np.testing.assert_array_equal(found["labels"].get_fdata(), view.labels_ZYX.transpose(2, 1, 0))
    # x 3, y 4, z 5 of a grid with its axes to the left, the back and the head.
    np.testing.assert_allclose(nib.affines.apply_affine(found["mask"].affine, (3, 4, 5)), (4, -13, 110))
    assert "volume-labels" not in volume_page(a_view(labelled=False), NiiVue("", "1", "x"))


def test_a_location_is_a_dot_around_its_place():
    view = a_view()
    painted_ZYX = dots(view)
    z, y, x = np.nonzero(painted_ZYX)
    places_N3 = np.stack([x, y, z], 1) * view.spacing_mm + view.origin_mm
    distance_N = np.linalg.norm(places_N3[:, None] - view.centres_mm_N3, axis=2).min(1)
    assert distance_N.max() <= 2.5
    assert painted_ZYX[8, 7, 5] == 1  # the voxel at the first location, and so at y of 19 and 21 mm
    assert (painted_ZYX > 0).sum() > 8


@pytest.mark.browser
def test_the_volume_in_a_browser(browser, tmp_path):
    from playwright import sync_api

    niivue = installed()
    if niivue is None:
        pytest.skip(f"NiiVue is not installed; `{INSTALL}` brings it")
    page = tmp_path / "scan.html"
    page.write_text(volume_page(a_view(name=EVIL), niivue), encoding="utf-8")
    tab, troubles = opened(browser, str(page), width=1366)
    try:
        readout = tab.locator("#readout")
        sync_api.expect(readout).to_contain_text("HU", timeout=60_000)
        assert "nearest location 1" in readout.text_content()

        def shown() -> bytes:
            tab.wait_for_timeout(100)
            return tab.locator("#volume").screenshot()

        seen = [shown()]
        for control in ("#show-mask", "#show-locations", "#show-labels"):
            tab.uncheck(control)
            seen.append(shown())
        tab.select_option("#window", "-1024,-600")
        seen.append(shown())
        tab.select_option("#planes", "coronal")
        seen.append(shown())
        assert len(set(seen)) == len(seen)  # each control changes the picture
        # The patient's right is on the left: a click into the left half meets the right lung.
        box = tab.locator("#volume").bounding_box()
        tab.mouse.click(box["x"] + box["width"] / 2 - box["height"] / 8, box["y"] + box["height"] / 2)
        sync_api.expect(readout).to_contain_text("right lung")
        x, y, z = map(float, readout.text_content().split(" mm")[0].split(","))
        assert (-10 < x < 10, 5 < y < 43, 100 < z < 130) == (True, True, True)
        hu = int(re.findall(r"(-?\d+) HU", readout.text_content())[0])
        assert hu == pytest.approx(-1000 + (x + 10) / 2 * 10, abs=10)  # HU count along x
        assert tab.evaluate("window.hacked") is None
        assert tab.evaluate("document.documentElement.scrollWidth") <= 1366
        # Chromium's advice where WebGL2 is computed by the processor.
        assert [trouble for trouble in troubles if "GPU stall" not in trouble] == []
    finally:
        tab.close()
