"""Findings that add density: where they lie, and how dense they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from ctplatform.phantom.disease import INTERSTITIAL, OPACITY, PARASEPTAL
from ctplatform.phantom.parameters import Findings, SubjectParameters, draw
from ctplatform.phantom.regions import LOBES
from ctplatform.phantom.scene import Rendered, Scene

SUBJECT = draw(1, seed=101, spacing_mm=4.0)


def rendered(findings: Findings, subject: SubjectParameters = SUBJECT) -> tuple[Rendered, np.ndarray]:
    scene = Scene.build(replace(subject, findings=findings))
    box = scene.field_of_view()
    return scene.render(box), box.spacing[::-1]


@pytest.fixture(scope="module")
def plain() -> Rendered:
    return rendered(Findings())[0]


@pytest.mark.parametrize("lobe", ["right upper", "left lower"])
def test_an_opacity_looks_the_same_in_every_lobe(plain: Rendered, lobe: str) -> None:
    found, _ = rendered(Findings(opacity_mm=16.0, opacity_lobe=lobe))
    inside = (found.disease & OPACITY) > 0
    assert inside.sum() > 40
    assert np.mean(found.lobes[inside] == LOBES[lobe]) > 0.7
    assert np.median(found.hu[inside]) == pytest.approx(-680, abs=40)
    far = ndimage.distance_transform_edt(~inside) > 8
    np.testing.assert_array_equal(found.hu[far], plain.hu[far])


def test_interstitial_change_is_subpleural_at_the_bases(plain: Rendered) -> None:
    found, spacing = rendered(Findings(interstitial=0.04))
    inside, lungs = (found.disease & INTERSTITIAL) > 0, found.lungs > 0
    assert inside.sum() / lungs.sum() == pytest.approx(0.04, abs=0.02)
    depth = ndimage.distance_transform_edt(lungs, sampling=spacing)
    assert np.quantile(depth[inside], 0.9) < 22
    height = np.arange(lungs.shape[0])[:, None, None] + np.zeros(lungs.shape)
    assert height[inside].mean() < np.quantile(height[lungs], 0.4)
    assert 100 < np.mean((found.hu - plain.hu)[inside]) < 300
    assert ((found.disease ^ plain.disease) & ~np.uint8(INTERSTITIAL)).max() == 0


def test_cysts_are_of_equal_amount_under_the_pleura_and_in_the_middle() -> None:
    subject = replace(
        SUBJECT, disease=replace(SUBJECT.disease, centrilobular=0, panlobular=0, paraseptal=0.03)
    )
    shares, depths = [], []
    for central in (False, True):
        found, spacing = rendered(Findings(central_cysts=central), subject)
        lungs = found.lungs > 0
        inside = (found.disease & PARASEPTAL) > 0
        shares.append(inside.sum() / lungs.sum())
        depths.append(np.median(ndimage.distance_transform_edt(lungs, sampling=spacing)[inside]))
    assert shares[0] == pytest.approx(shares[1], rel=0.15)
    assert depths[0] < 10 < 15 < depths[1]
