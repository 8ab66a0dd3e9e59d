"""Real tissue: the test's arithmetic and its tables, on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks import evidence_own_pages, evidence_real, evidence_tissue
from tests.benchmarks.evidence import phases
from tests.benchmarks.evidence_parts import MAIN, RANDOM, SEEDS, Evidence
from tests.benchmarks.evidence_real import CT, REAL
from tests.benchmarks.evidence_tissue import DRAWS, LAST, MULTISCALE, SHOTS, claim_of, compared


def test_accuracy_is_balanced_and_of_patches_that_were_not_drawn() -> None:
    rng = np.random.default_rng(0)
    class_N = np.repeat(np.arange(3), [60, 30, 8])
    separable_ND = np.eye(3)[class_N] + 0.05 * rng.normal(size=(98, 3))
    noise_ND = rng.normal(size=(98, 3))
    for shots in (5, 20):
        assert np.mean(evidence_tissue.accuracies(separable_ND, class_N, shots=shots)) > 0.98
        found = evidence_tissue.accuracies(noise_ND, class_N, shots=shots)
        assert len(found) == DRAWS
        assert np.mean(found) == pytest.approx(1 / 3, abs=0.08)


def test_a_patch_is_padded_and_repeated_in_depth() -> None:
    hu_NYX = np.arange(2 * 31 * 31, dtype=np.float32).reshape(2, 31, 31)
    cubes = evidence_tissue.cubes(hu_NYX)
    assert cubes.shape == (2, 32, 32, 32)
    np.testing.assert_array_equal(cubes[:, 7, :31, :31], hu_NYX)
    np.testing.assert_array_equal(cubes[:, 7, 31, :31], hu_NYX[:, 30])


def test_baselines_measure_density() -> None:
    hu_NYX = np.stack([np.full((31, 31), -980.0), np.full((31, 31), -850.0)])
    found = evidence_tissue.baselines(hu_NYX)
    np.testing.assert_allclose(found["moments"], [[-980, 0, 1], [-850, 0, 0]])
    assert found["histogram"].shape == (2, 32)
    assert np.exp(found["histogram"]).sum() == pytest.approx(2 * (31 * 31 + 5 * 32))


def test_differences_are_paired_over_draws() -> None:
    rng = np.random.default_rng(0)
    draws_R = 0.1 * rng.normal(size=DRAWS)
    first_KR, second_KR = 0.6 + np.tile(draws_R, (3, 1)), 0.5 + np.tile(draws_R, (3, 1))
    found = compared(first_KR, second_KR)
    assert found["interval"] == [0.1, 0.1]
    one = compared(first_KR, second_KR[:1])
    assert one["interval"] == [0.1, 0.1]
    unsteady = compared(first_KR + np.array([[0.0], [0.1], [0.2]]), second_KR)
    assert unsteady["interval"][0] < 0.15 < unsteady["interval"][1]


def scores(gain: float) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    levels = {
        f"{MAIN} {MULTISCALE}": 0.5 + gain,
        f"{RANDOM} {MULTISCALE}": 0.5,
        f"{MAIN} {LAST}": 0.45,
        f"{RANDOM} {LAST}": 0.4,
        f"{REAL} {MULTISCALE}": 0.52,
        f"{REAL} {LAST}": 0.43,
    }
    return {
        name: {str(n): level + 0.005 * rng.normal(size=(len(SEEDS), DRAWS)) for n in SHOTS}
        for name, level in levels.items()
    } | {name: {str(n): np.full((1, DRAWS), 0.6) for n in SHOTS} for name in ("histogram", "moments")}


@pytest.mark.parametrize(
    ("gain", "holds", "reached"), [(0.05, True, False), (-0.02, False, False), (0.2, True, True)]
)
def test_the_claim_needs_every_number_of_labels(gain: float, holds: bool, reached: bool) -> None:
    claim = claim_of(scores(gain), patches=1337)
    assert (claim["holds"], claim["reaches_histogram"]) == (holds, reached)
    assert claim["difference"] == pytest.approx(gain, abs=0.005)
    assert claim["interval"][0] < claim["difference"] < claim["interval"][1]
    one = scores(0.05)
    one[f"{MAIN} {MULTISCALE}"]["80"] -= 0.06
    assert not claim_of(one, patches=1337)["holds"]
    text = evidence_own_pages.tissue_section(claim)
    assert text.count(f"{claim['shots']['5']['difference']:+.2f}") >= 1
    assert all(title in text for title in evidence_own_pages.TISSUE.values())
    assert f"{claim['real_cts_against_random']['80']['difference']:+.2f}" in text


def test_without_encoders_of_real_cts_the_page_has_no_row_of_them() -> None:
    phantoms = {name: found for name, found in scores(0.05).items() if not name.startswith(REAL)}
    assert "real CTs" not in evidence_own_pages.tissue_section(claim_of(phantoms, patches=1337))


def test_without_the_data_the_part_is_skipped_with_a_reason(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.delenv(evidence_tissue.PATCHES, raising=False)
    assert evidence_tissue.phases(Evidence(tmp_path)) == []
    assert evidence_tissue.PATCHES in capsys.readouterr().out
    file = tmp_path / "EmphysemaPatches.mat"
    file.write_bytes(b"")
    monkeypatch.setenv(evidence_tissue.PATCHES, str(file))
    monkeypatch.delenv(CT, raising=False)
    assert len(evidence_tissue.phases(Evidence(tmp_path))[0]) == 2 * len(SEEDS) + 1
    assert CT in capsys.readouterr().out
    monkeypatch.setenv(CT, str(tmp_path))
    prepared, pretrained, scored = evidence_tissue.phases(Evidence(tmp_path))
    assert (len(prepared), len(pretrained), len(scored)) == (1, len(SEEDS), 3 * len(SEEDS) + 1)
    whole = [part for phase in phases(Evidence(tmp_path)) for part in phase]
    assert not any(evidence_real.is_part(arguments) for _, arguments in whole), "with --only alone"
    assert all(evidence_real.is_part(arguments) for _, arguments in prepared + pretrained)
