"""Page and picture are made of docs/evidence.json, and its claims follow its intervals."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks import document, evidence_own_pages, evidence_page
from tests.benchmarks.evidence import RESULT
from tests.benchmarks.evidence_variants import COMPARED

EVIDENCE = json.loads(RESULT.read_text(encoding="utf-8"))
CLAIMS = {claim["name"]: claim for claim in EVIDENCE["claims"]}


def above_zero(tasks: dict) -> int:
    return sum(found["interval"][0] > 0 for found in tasks.values())


def test_the_page_has_the_tables():
    text = (document.BENCHMARKS / "evidence.md").read_text(encoding="utf-8")
    assert evidence_page.tables(EVIDENCE).strip() in text
    assert evidence_own_pages.tasks_section(CLAIMS["beats_density_where_density_fails"]).strip() in text
    assert evidence_own_pages.tissue_section(CLAIMS["real_tissue"]).strip() in text


def test_the_picture_is_that_of_the_results():
    assert evidence_page.PICTURE.read_text(encoding="utf-8").strip() == evidence_page.picture(EVIDENCE)


def test_there_are_three_seeds_and_every_claim_says_what_it_needs():
    assert EVIDENCE["pretrain_seeds"] >= 3
    assert EVIDENCE["n_test"] > 0
    for claim in CLAIMS.values():
        assert isinstance(claim["holds"], bool)
        assert len(claim["interval"]) == 2
        assert claim["n"] > 0
        assert claim["needed"]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("frozen_beats_random_few_labels", 4),
        ("frozen_beats_random_all_labels", 4),
        ("frozen_beats_scratch_few_labels", 3),
        ("finetuned_beats_scratch_few_labels", 3),
        ("beats_density_where_density_fails", 2),
    ],
)
def test_a_claim_holds_as_its_intervals_say(name, least):
    claim = CLAIMS[name]
    assert claim["holds"] == (above_zero(claim["tasks"]) >= least)


def test_real_tissue_needs_every_number_of_labels():
    claim = CLAIMS["real_tissue"]
    assert claim["holds"] == (above_zero(claim["shots"]) == 3)
    assert claim["reaches_histogram"] == all(
        found["difference"] >= 0 for found in claim["against_histogram"].values()
    )


def test_density_is_beaten_on_each_cohort_or_not_at_all():
    claim = CLAIMS["beats_density"]
    assert len(claim["cohorts"]) == 2
    assert claim["holds"] == all(above_zero(tasks) >= 3 for tasks in claim["cohorts"].values())


@pytest.mark.parametrize("name", [name for name in COMPARED if name in CLAIMS])
def test_a_part_of_the_method_pays_with_all_seeds_and_both_intervals_or_not_at_all(name):
    claim = CLAIMS[name]
    lows = [claim[key][0] for key in ("interval", "interval_all_labels")]
    pays = min(lows) >= 0 if name == "encode_once_loses_nothing" else min(lows) > 0
    assert claim["holds"] == (pays and claim["seeds"] == EVIDENCE["pretrain_seeds"])
    first, second = (sum(claim["cpu_seconds"][claim[side]]) for side in ("with", "without"))
    assert first == pytest.approx(second, rel=0.35)  # the same CPU time, on a busy machine


def test_differences_are_those_of_the_scores():
    for claim in CLAIMS.values():
        for found in claim.get("tasks", {}).values():
            if "difference" in found:
                assert found["difference"] == pytest.approx(found["value"] - found["other"], abs=0.0016)
                assert found["interval"][0] <= found["interval"][1]
