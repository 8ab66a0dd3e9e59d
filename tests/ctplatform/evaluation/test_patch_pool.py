"""The pool of patches: read once, averaged over scans, drawn at random without losing a subject."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from ctplatform.config.training import EncoderConfig
from ctplatform.dataset.shards import read_patches
from ctplatform.evaluation import patch_pool
from ctplatform.evaluation.patch_pool import PatchPool, batches_of_rows
from drasclr import augment
from drasclr.encoder import FEATURES, Encoder
from tests.ctplatform.evaluation_world import build, tiny_atlas


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(workspace, pool): the first of eight subjects has two scans."""
    workspace, cohort = build(tmp_path_factory.mktemp("pool"), subjects=8)
    scans = {subject: tuple(ids) for subject, ids in cohort.groupby("subject_id")["scan_id"]}
    return workspace, PatchPool(workspace, tiny_atlas().coordinates_N3, scans=scans, size=3)


@pytest.mark.parametrize(("size", "expected"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_locations_are_spread_over_the_atlas(world, size, expected):
    coordinates_N3 = tiny_atlas().coordinates_N3
    pool = PatchPool(world[0], coordinates_N3, scans={}, size=size)
    assert pool.locations_L.tolist() == expected
    np.testing.assert_array_equal(pool.coordinates_L3.numpy(), coordinates_N3[expected].astype(np.float32))


def test_a_batch_is_the_normalised_patches_of_the_shards(world):
    workspace, pool = world
    batch = pool.batch(["scan003", "scan001"], np.array([2, 0]))
    assert batch.shape == (2, 2, 1, 32, 32, 32)
    for column, scan_id in enumerate(("scan003", "scan001")):
        hu_LDHW = torch.from_numpy(read_patches(workspace, scan_id, np.arange(3))[1])
        for row, location in enumerate((2, 0)):
            expected = augment.normalise(hu_LDHW[None, location, None], hu_window=pool.hu_window)
            torch.testing.assert_close(batch[row, column], expected.reshape(1, 32, 32, 32), rtol=0, atol=0)


def test_a_draw_has_the_same_locations_for_all_subjects_and_one_scan_of_each(world):
    _, pool = world
    patches, coordinates = pool.draw(["sub002", "sub005"], 2, np.random.default_rng(0))
    places = [pool.coordinates_L3.tolist().index(place) for place in coordinates.tolist()]
    assert places == sorted(set(places))
    assert len(places) == 2
    scans = [pool.scans[subject][0] for subject in ("sub002", "sub005")]
    assert torch.equal(patches, pool.batch(scans, np.array(places)))
    assert len(pool.draw(["sub002"], 99, np.random.default_rng(0))[1]) == 3


def test_draws_take_each_scan_of_a_subject(world):
    _, pool = world
    assert pool.scans["sub000"] == ("scan000", "scan001")
    rng, seen = np.random.default_rng(0), set()
    for _ in range(20):
        patches, _ = pool.draw(["sub000"], 3, rng)
        seen |= {
            name for name in pool.scans["sub000"] if torch.equal(patches, pool.batch([name], np.arange(3)))
        }
    assert seen == {"scan000", "scan001"}


def test_mixed_batches_pair_each_patch_with_its_place(world):
    _, pool = world
    rows = iter([np.array([1, 0]), np.array([2, 1])])
    subjects = ["sub001", "sub002", "sub003"]
    found = list(pool.mixed_batches(subjects, 2, rows, np.random.default_rng(5)))
    assert len(found) == 2
    rng = np.random.default_rng(5)
    for (patches, coordinates), expected_rows in zip(found, ([1, 0], [2, 1]), strict=True):
        drawn, places = pool.draw([subjects[row] for row in expected_rows], 2, rng)
        assert patches.shape[0] == coordinates.shape[0] == 4
        for place in range(2):
            for column in range(2):
                assert torch.equal(patches[place * 2 + column], drawn[place, column])
                assert torch.equal(coordinates[place * 2 + column], places[place])


@pytest.mark.parametrize("scans_per_call", [1, 2, 8])
def test_features_are_means_over_a_subjects_scans(world, scans_per_call, monkeypatch):
    _, pool = world
    monkeypatch.setattr(patch_pool, "SCANS_PER_CALL", scans_per_call)
    torch.manual_seed(0)
    encoder = Encoder(**EncoderConfig(experts=1).model_dump()).train()
    x_SLP = pool.features(encoder, ["sub000", "sub003"])
    assert not encoder.training
    assert x_SLP.shape == (2, 3, FEATURES)
    assert x_SLP.dtype == np.float64
    with torch.no_grad():
        for scan_row, subject in enumerate(("sub000", "sub003")):
            of_scans = [
                encoder.grouped(pool.batch([scan], np.arange(3)), pool.coordinates_L3)[:, 0].double().numpy()
                for scan in pool.scans[subject]
            ]
            np.testing.assert_allclose(x_SLP[scan_row], np.mean(of_scans, axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (5, 5), (3, 8), (1, 1)])
def test_batches_of_rows_take_every_subject_equally_often(count, size):
    batches = list(islice(batches_of_rows(np.random.default_rng(0), count, size=size), 4 * count))
    taken = min(size, count)
    assert all(len(batch) == len(set(batch.tolist())) == taken for batch in batches)
    rows = np.concatenate(batches)
    for start in range(0, len(rows) - count + 1, count):  # a pass after the other
        assert sorted(rows[start : start + count]) == list(range(count))


def test_patches_are_read_once_a_process(world, monkeypatch):
    workspace, pool = world
    fresh = PatchPool(workspace, tiny_atlas().coordinates_N3, scans=pool.scans, size=2)
    first = fresh.batch(["scan000", "scan001"], np.array([0, 1]))
    monkeypatch.setattr(patch_pool, "read_patches", lambda *_: pytest.fail("read again"))
    assert torch.equal(fresh.batch(["scan000", "scan001"], np.array([0, 1])), first)
    assert first.shape == (2, 2, 1, 32, 32, 32)


def test_the_cache_has_a_limit(world, monkeypatch):
    _, pool = world
    patch_pool._cache.clear()
    reads = []

    def large(_, scan_id, __):
        """Half a gibibyte that takes no memory."""
        reads.append(scan_id)
        return None, np.broadcast_to(np.int16(len(reads)), 1 << 28)

    monkeypatch.setattr(patch_pool, "read_patches", large)
    for number in range(6):
        pool.scan(f"scan{number:03d}")
    assert sum(array.nbytes for array in patch_pool._cache.values()) <= patch_pool.CACHE_BYTES
    assert pool.scan("scan005")[0] == 6
    assert len(reads) == 6, "the newest are kept"
    assert pool.scan("scan000")[0] == 7, "the oldest are not"
    patch_pool._cache.clear()
