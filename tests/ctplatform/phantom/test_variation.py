"""Options that vary phantoms as patients of a clinic vary: each changes what it is about, and only that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import SimpleITK as sitk

from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import PhantomConfig, VariationConfig
from ctplatform.phantom import make_subject
from ctplatform.phantom.cohort import _names
from ctplatform.phantom.parameters import SubjectParameters, draw
from ctplatform.phantom.scan import acquire
from ctplatform.phantom.scene import Scene
from ctplatform.phantom.variation import (
    KERNEL_NOISE_HU,
    LEAST_EXTENT,
    PANLOBULAR_FACTOR,
    findings_labels,
    pi10,
    vary,
)
from ctplatform.tasks.registry import get_task

OPTIONS = tuple(VariationConfig.model_fields)
ALL = VariationConfig(**dict.fromkeys(OPTIONS, True))
#: What each option may change of a subject's parameters.
CHANGES = {
    "scanners": {"scanner"},
    "breath": {"person"},
    "subtypes": {"disease"},
    "cysts": {"disease", "findings"},
    "airways": {"findings"},
    "interstitial": {"findings"},
    "opacity": {"findings"},
}


def drawn(count: int = 60) -> Iterator[SubjectParameters]:
    return (draw(index, seed=7, spacing_mm=4.0) for index in range(count))


def laa950(parameters: SubjectParameters) -> float:
    scene = Scene.build(parameters)
    box = scene.field_of_view()
    rendered = scene.render(box)
    hu = acquire(rendered.hu, box, parameters)
    return float((hu[rendered.lungs > 0] < -950).mean())


def test_nothing_changes_without_an_option() -> None:
    for subject in drawn(5):
        assert vary(subject, VariationConfig()) == subject
        assert findings_labels(subject, VariationConfig()) == {}


def test_a_cohort_without_variation_keeps_its_names() -> None:
    """Rows that earlier versions wrote stay those of the same configuration."""
    assert _names(PhantomConfig())[0] == "5ee071315f53-00000.json"
    assert _names(PhantomConfig(variation=VariationConfig(breath=True)))[0] != "5ee071315f53-00000.json"


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_changes_only_what_it_is_about(option: str) -> None:
    changed = set()
    for subject in drawn():
        found = vary(subject, VariationConfig(**{option: True}))
        changed |= {
            field.name
            for field in fields(subject)
            if getattr(found, field.name) != getattr(subject, field.name)
        }
        everything = vary(subject, ALL)
        if option in ("scanners", "breath"):
            (part,) = CHANGES[option]
            assert getattr(everything, part) == getattr(found, part), "whatever else is on"
    assert changed == CHANGES[option]


def test_kernels_move_laa950_by_the_published_amount_and_no_label() -> None:
    """Sharp against soft in patients: 7.7 +- 2.7 and 7.2 +- 3.8 points (doi:10.1007/s00330-015-3824-y)."""
    differences = []
    for index in (0, 10):
        subject = draw(index, seed=101, spacing_mm=2.2)
        found = {
            kernel: laa950(
                replace(
                    subject,
                    scanner=replace(
                        subject.scanner, kernel=kernel, noise_hu=noise, offset_hu=0.0, filters=True
                    ),
                )
            )
            for kernel, noise in KERNEL_NOISE_HU.items()
            if kernel != "medium"
        }
        differences.append(100 * (found["sharp"] - found["soft"]))
    assert np.mean(differences) == pytest.approx(7.4, abs=3.0)


def test_scanners_move_no_label_and_no_truth() -> None:
    config = PhantomConfig(subjects=4, seed=7, spacing_mm=6.0)
    plain = make_subject(3, config=config)
    varied = make_subject(3, config=config.model_copy(update={"variation": VariationConfig(scanners=True)}))
    assert varied.labels == plain.labels
    for name in ("lungs", "disease", "lobes"):
        np.testing.assert_array_equal(
            sitk.GetArrayViewFromImage(getattr(varied, name)),
            sitk.GetArrayViewFromImage(getattr(plain, name)),
        )
    assert varied.parameters.scanner != plain.parameters.scanner


def test_lower_dose_raises_laa950() -> None:
    subject = draw(0, seed=101, spacing_mm=3.0)
    scanner = replace(subject.scanner, kernel="medium", offset_hu=0.0, filters=True)
    routine, quarter = (
        laa950(replace(subject, scanner=replace(scanner, noise_hu=KERNEL_NOISE_HU["medium"] * factor)))
        for factor in (1, 2)
    )
    assert quarter > routine + 0.01


def test_subtypes_have_equal_extent_and_equal_laa950() -> None:
    subject = draw(1, seed=101, spacing_mm=2.2)
    none = replace(subject.disease, centrilobular=0.0, panlobular=0.0, paraseptal=0.0)
    found = {
        "centrilobular": laa950(replace(subject, disease=replace(none, centrilobular=0.15))),
        "panlobular": laa950(replace(subject, disease=replace(none, panlobular=0.15 * PANLOBULAR_FACTOR))),
    }
    assert found["panlobular"] == pytest.approx(found["centrilobular"], rel=0.25)


def test_labels_say_what_was_drawn() -> None:
    kinds, places, changes, lobes = set(), set(), [], []
    for subject in drawn():
        varied = vary(subject, ALL)
        labels = findings_labels(varied, ALL)
        disease = varied.disease
        assert min(disease.centrilobular, disease.panlobular) == 0
        if "panlobular" in labels:
            assert labels["panlobular"] == int(disease.panlobular > 0)
            kinds.add(labels["panlobular"])
            assert max(disease.centrilobular, disease.panlobular) >= LEAST_EXTENT * PANLOBULAR_FACTOR
        if "subpleural_cysts" in labels:
            assert labels["subpleural_cysts"] == int(not varied.findings.central_cysts)
            places.add(labels["subpleural_cysts"])
        else:
            assert disease.paraseptal == 0
        changes.append(labels["interstitial"] == 1)
        lobes.append(labels["opacity_upper"] == 1)
        assert labels["pi10"] == pytest.approx(pi10(disease.airway), abs=1e-3)
    assert kinds == places == {0, 1}
    assert 0.2 < np.mean(changes) < 0.6
    assert 0.3 < np.mean(lobes) < 0.7


def test_pi10_grows_with_airway_disease() -> None:
    """At the median a little below what CT measures; the spread is that of patients, some 0.3 mm."""
    assert pi10(0.0) == pytest.approx(2.6, abs=0.1)
    assert (pi10(1.0) - pi10(-1.0)) / 2 == pytest.approx(0.33, abs=0.05)


def test_a_shallower_breath_is_denser_in_a_lower_lung() -> None:
    for subject in drawn(10):
        person = vary(subject, VariationConfig(breath=True)).person
        assert person.tissue_hu >= subject.person.tissue_hu
        assert person.height <= subject.person.height
        assert person.height >= 0.75 * subject.person.height


def test_the_recipe_has_a_task_for_every_label() -> None:
    recipe = load_recipe("varied")
    assert recipe.phantom is not None
    assert recipe.phantom.variation == ALL
    labels = {name for subject in drawn(20) for name in findings_labels(vary(subject, ALL), ALL)}
    columns = {get_task(name, recipe.tasks).columns[0] for name in recipe.sweep.tasks}
    assert columns == labels | {"emphysema_extent"}
