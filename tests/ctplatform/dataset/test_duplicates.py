"""Near-duplicates: one acquisition under two names is found, other people and other breaths are not."""

import logging
import time

import numpy as np
import pandas as pd
import pytest

from ctplatform.config.preparation import SplitConfig
from ctplatform.dataset import duplicates, shards
from ctplatform.dataset.duplicates import alike, near_duplicates, signature
from ctplatform.dataset.ledger import read_ledger
from ctplatform.dataset.splits import Split, make_split, read_split, write_split
from ctplatform.evaluation.assembly import assemble
from ctplatform.storage.layout import PATCHES, SIGNATURES_FILE
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.evaluation_world import RUN, build, recipe, tiny_atlas


def people(count, seed=0):
    """Signatures: what all lungs share, and each person their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(-800, 120, 1500)
    return np.clip(shared + rng.normal(0, 60, (count, 1500)), -1000, -300).astype(np.float32)


def test_one_acquisition_is_found_among_many_and_nobody_else():
    signatures = people(1200)  # more than one batch
    signatures[1100] = signatures[7] + 15 + np.random.default_rng(1).normal(0, 15, 1500)
    names = [f"s{i:04d}" for i in range(1200)]
    (pair,) = alike(signatures, names, alike_above=0.7)
    assert (pair.a, pair.b) == ("s0007", "s1100")  # the offset of 15 HU does not count
    assert pair.correlation > 0.9


def test_the_matrix_product_finds_what_comparing_each_two_finds():
    rng = np.random.default_rng(0)
    own = people(20).repeat(3, axis=0)  # three scans each, some at the threshold
    signatures = (own + rng.normal(0, 36.5, own.shape)).astype(np.float32)
    names = [f"s{i:02d}" for i in range(60)]
    expected = {
        (names[i], names[j])
        for i in range(60)
        for j in range(i + 1, 60)
        if np.corrcoef(*(signatures - signatures.mean(0))[[i, j]])[0, 1] > 0.7
    }
    assert {(p.a, p.b) for p in alike(signatures, names, alike_above=0.7)} == expected
    assert 10 < len(expected) < 60


def test_a_thousand_scans_take_seconds():
    signatures, start = people(3000), time.perf_counter()
    assert alike(signatures, [str(i) for i in range(3000)], alike_above=0.7) == []
    assert time.perf_counter() - start < 60


def test_a_signature_averages_cubes_of_lung():
    hu = np.full((2, 32, 32, 32), -800, np.int16)
    hu[1, :8, :8, :8] = 400  # bone counts as the upper end of the window
    found = signature(hu)
    assert found.shape == (2 * 64,)
    assert sorted(set(found.tolist())) == [-800.0, -300.0]


@pytest.fixture
def world(tmp_path):
    """24 subjects; `twin` is the acquisition of the first training subject, with noise, under another name."""
    workspace, cohort = build(tmp_path, subjects=24)
    original = cohort.loc[cohort["subject_id"] == read_split(workspace).train[-1], "scan_id"].iloc[0]
    return workspace, cohort, original


def add_twin(workspace: Workspace, cohort: pd.DataFrame, original: str, *, subject: str) -> pd.DataFrame:
    """Another reconstruction of a scan, as if of another subject."""
    from ctplatform.dataset import ledger

    rng, atlas = np.random.default_rng(9), tiny_atlas()
    _, hu = shards.read_patches(workspace, original)
    noisy = (hu + rng.normal(0, 30, hu.shape)).astype(np.int16)
    data, _ = shards.encode(
        scan_id="twin",
        subject_id=subject,
        hu_NDHW=noisy,
        inside_N=np.ones(3, np.float32),
        atlas=atlas,
        metadata={},
    )
    workspace.write_bytes(data, PATCHES, "twin.parquet")
    row = {"scan_id": "twin", "subject_id": subject, "state": "accepted", "content_hash": "other"}
    row |= {"atlas_hash": atlas.hash, "laa950": 0.1, "perc15": -920.0, "volume_l": 5.0}
    ledger.write_row(workspace, row)
    return pd.concat([cohort, pd.DataFrame([{"scan_id": "twin", "subject_id": subject}])], ignore_index=True)


def test_a_noisy_twin_is_found_and_kept_on_the_side_of_its_original(world, caplog):
    workspace, cohort, original = world
    assert near_duplicates(workspace, read_ledger(workspace), alike_above=0.7) == []
    add_twin(workspace, cohort, original, subject="zz")
    rows = read_ledger(workspace)
    (pair,) = near_duplicates(workspace, rows, alike_above=0.7)
    assert {pair.a, pair.b} == {"twin", original}
    owner = rows.set_index("scan_id")["subject_id"][original]
    with caplog.at_level(logging.WARNING):
        for seed in range(8):
            split = make_split(rows, SplitConfig(test_fraction=0.5, seed=seed), similar=[pair])
            assert ("zz" in split.test) == (owner in split.test)
    assert "look like one acquisition; the subjects stay on one side" in caplog.text
    write_split(workspace, split)
    assert read_split(workspace) == split
    assert split.similar[0][:2] == (pair.a, pair.b)


def test_signatures_are_made_once(world, monkeypatch):
    workspace, cohort, original = world
    near_duplicates(workspace, read_ledger(workspace), alike_above=0.7)
    made = []
    monkeypatch.setattr(duplicates, "_part", lambda ws, scans: made.extend(scans) or [b"" for _ in scans])
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    near_duplicates(workspace, read_ledger(workspace), alike_above=0.7)
    assert made == []
    add_twin(workspace, cohort, original, subject="zz")
    near_duplicates(workspace, read_ledger(workspace), alike_above=0.7)
    assert made == ["twin"]


def test_a_twin_across_an_old_split_is_a_note_not_an_end(world):
    workspace, cohort, original = world
    old = read_split(workspace)
    cohort = add_twin(workspace, cohort, original, subject="zz")
    write_split(workspace, Split(train=old.train, test=(*old.test, "zz")))
    _, messages = assemble(workspace, cohort, recipe(tasks=["emphysema_extent"]), run=RUN)
    assert "look like one acquisition" in messages[0]
    assert "give both the same subject_id" in messages[0]


def test_it_can_be_switched_off(world):
    workspace, cohort, original = world
    add_twin(workspace, cohort, original, subject="zz")
    assert near_duplicates(workspace, read_ledger(workspace), alike_above=1.0) == []
    assert not workspace.exists(SIGNATURES_FILE)
