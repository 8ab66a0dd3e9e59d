"""The feed serves every scan and anchor once an epoch, the right patches, and the same whatever was read before."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ctplatform.dataset import shards
from ctplatform.dataset.byte_ranges import ByteRanges
from ctplatform.errors import StageError
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace
from ctplatform.training import partition
from ctplatform.training.feed import Feed
from ctplatform.training.runs import ScanEntry, training_scans
from tests.ctplatform import training_world
from tests.ctplatform.training_world import recipe_with, training_workspace

SCANS = 6


@pytest.fixture(scope="module")
def cohort(small_atlas, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("feed"))
    entries = []
    side = small_atlas.patch_size
    for number in range(SCANS):
        # A patch's value says whose it is: scan * 1000 + location.
        values = (number * 100 + np.arange(small_atlas.num_locations)).astype(np.int16)
        hu = np.broadcast_to(values[:, None, None, None], (len(values), side, side, side)).copy()
        data, footer = shards.encode(
            scan_id=f"s{number}",
            subject_id=f"p{number // 2}",
            hu_NDHW=hu,
            inside_N=np.ones(len(values), np.float32),
            atlas=small_atlas,
            metadata={},
        )
        workspace.write_bytes(data, PATCHES, f"s{number}.parquet")
        entries.append(ScanEntry(f"s{number}", number // 2, footer))
    return workspace, entries


def feed(cohort, atlas, *, rank=0, world=1, batch=4, anchors=3, seed=1):
    workspace, entries = cohort
    return Feed(
        workspace,
        entries,
        atlas,
        scans_per_batch=batch,
        locations_per_batch=anchors,
        seed=seed,
        rank=rank,
        world=world,
    )


def test_patches_are_those_of_the_named_scans_and_locations(cohort, small_atlas):
    for batch in feed(cohort, small_atlas).epoch(0):
        expected = batch.scans_S[None] * 100 + batch.locations_G[:, None]
        assert torch.equal(batch.anchors()[:, :, 0, 0, 0].long(), expected)
        near = batch.scans_S[None, None] * 100 + batch.neighbour_locations_GK[:, :, None]
        assert torch.equal(batch.neighbours()[:, :, :, 0, 0, 0].long(), near)
        assert torch.equal(
            batch.neighbour_locations_GK,
            torch.from_numpy(small_atlas.neighbours_NK[batch.locations_G.numpy()]),
        )
        assert torch.equal(batch.subjects_S, batch.scans_S // 2)


def test_an_epoch_serves_every_pair_and_repeats_only_to_fill_the_last_group(cohort, small_atlas):
    loader = feed(cohort, small_atlas)
    seen: Counter = Counter()
    steps = 0
    for batch in loader.epoch(0):
        steps += 1
        seen.update((int(s), int(g)) for s in batch.scans_S for g in batch.locations_G)
    assert steps == loader.steps_per_epoch()
    assert set(seen) == {(s, g) for s in range(SCANS) for g in range(small_atlas.num_locations)}
    assert sum(seen.values()) == 8 * small_atlas.num_locations  # 6 scans in two groups of 4
    assert max(seen.values()) == 2


def test_resuming_at_any_step_gives_the_same_batches(cohort, small_atlas):
    whole = list(feed(cohort, small_atlas).epoch(3))
    for start in (1, 5, len(whole) - 1):
        rest = list(feed(cohort, small_atlas).epoch(3, start_step=start))
        assert len(rest) == len(whole) - start
        for a, b in zip(whole[start:], rest, strict=True):
            assert torch.equal(a.locations_G, b.locations_G)
            assert torch.equal(a.scans_S, b.scans_S)
            assert torch.equal(a.anchors(), b.anchors())


def test_two_ranks_together_serve_what_one_serves(cohort, small_atlas):
    one = list(feed(cohort, small_atlas).epoch(2))
    first = list(feed(cohort, small_atlas, rank=0, world=2).epoch(2))
    second = list(feed(cohort, small_atlas, rank=1, world=2).epoch(2))
    assert len(one) == len(first) == len(second)
    for whole, a, b in zip(one, first, second, strict=True):
        assert torch.equal(whole.locations_G, a.locations_G)
        assert torch.equal(a.locations_G, b.locations_G)
        assert sorted(whole.scans_S.tolist()) == sorted([*a.scans_S.tolist(), *b.scans_S.tolist()])


def test_two_ranks_serve_the_same_patches_that_one_does(cohort, small_atlas):
    """Whatever the number of ranks and threads, a scan's anchor comes with the same voxels and neighbours."""
    workspace, entries = cohort

    def served(rank, world, threads):
        loader = Feed(
            workspace,
            entries,
            small_atlas,
            scans_per_batch=4,
            locations_per_batch=3,
            seed=7,
            rank=rank,
            world=world,
            threads=threads,
        )
        for step, batch in enumerate(loader.epoch(1)):
            for s, scan in enumerate(batch.scans_S.tolist()):
                for g, location in enumerate(batch.locations_G.tolist()):
                    near = batch.neighbours()[g, :, s]
                    yield (step, scan, location), (batch.anchors()[g, s], near)

    whole = dict(served(0, 1, 1))
    split = dict(served(0, 2, 3)) | dict(served(1, 2, 1))
    assert whole.keys() == split.keys()
    for key, (anchor, near) in whole.items():
        assert torch.equal(anchor, split[key][0])
        assert torch.equal(near, split[key][1])


def test_random_voxels_come_through_the_feed_unchanged(small_atlas, tmp_path):
    rng, side, workspace = np.random.default_rng(3), small_atlas.patch_size, Workspace(tmp_path)
    volumes, entries = [], []
    for number in range(3):
        hu = rng.integers(-1024, 241, (small_atlas.num_locations, side, side, side)).astype(np.int16)
        data, footer = shards.encode(
            scan_id=f"r{number}",
            subject_id=f"r{number}",
            hu_NDHW=hu,
            inside_N=np.ones(len(hu), np.float32),
            atlas=small_atlas,
            metadata={},
            level=(-1, 1, 3)[number],
        )
        workspace.write_bytes(data, PATCHES, f"r{number}.parquet")
        volumes.append(hu)
        entries.append(ScanEntry(f"r{number}", number, footer))
    truth = torch.from_numpy(np.stack(volumes))
    loader = Feed(workspace, entries, small_atlas, scans_per_batch=3, locations_per_batch=5)
    for batch in loader.epoch(0):
        picked = truth[batch.scans_S][:, batch.locations_G].transpose(0, 1)
        assert torch.equal(batch.anchors(), picked)
        near = truth[batch.scans_S][:, batch.neighbour_locations_GK].permute(1, 2, 0, 3, 4, 5)
        assert torch.equal(batch.neighbours(), near)


def test_a_batch_that_is_kept_stays_as_it_was(cohort, small_atlas):
    """Whatever is read later, and whatever is done to patches that were taken from it."""
    loader = feed(cohort, small_atlas)
    fresh = [(b.anchors(), b.neighbours()) for b in loader.epoch(4)]
    kept = list(loader.epoch(4))
    for batch in kept:
        batch.anchors().zero_()
        batch.neighbours().zero_()
    for (anchors, near), batch in zip(fresh, kept, strict=True):
        assert torch.equal(anchors, batch.anchors())
        assert torch.equal(near, batch.neighbours())


def test_a_device_is_given_the_rows_of_a_read_once_for_all_its_steps(cohort, small_atlas):
    """The meta device has shapes only, but patches are transferred to it as to a GPU."""
    workspace, entries = cohort
    loader = Feed(
        workspace, entries, small_atlas, scans_per_batch=4, locations_per_batch=3, seed=1, device="meta"
    )
    batches = list(loader.epoch(0))
    assert all(batch.patches._held is not None for batch in batches)  # before any was taken
    assert len({id(batch.patches) for batch in batches}) == len(loader.plan(0)) < len(batches)
    assert batches[0].neighbours("meta").shape[2:4] == (4, small_atlas.patch_size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_patches_taken_on_a_gpu_are_those_taken_on_the_cpu(cohort, small_atlas):
    for batch in feed(cohort, small_atlas).epoch(1):
        assert torch.equal(batch.anchors("cuda").cpu(), batch.anchors())
        assert torch.equal(batch.neighbours("cuda").cpu(), batch.neighbours())


def test_mapped_or_fetched_the_batches_are_the_same(cohort, small_atlas):
    mapped, fetched = feed(cohort, small_atlas), feed(cohort, small_atlas)
    mapped._ranges = ByteRanges(mapped.workspace, mapped=True)
    fetched._ranges = ByteRanges(fetched.workspace, mapped=False)
    for a, b in zip(mapped.epoch(2), fetched.epoch(2), strict=True):
        assert torch.equal(a.scans_S, b.scans_S)
        assert torch.equal(a.anchors(), b.anchors())
        assert torch.equal(a.neighbours(), b.neighbours())


@pytest.mark.parametrize("mapped", [True, False])
def test_stopping_early_leaves_no_thread_behind(cohort, small_atlas, mapped):
    before = threading.active_count()
    loader = feed(cohort, small_atlas)
    loader._ranges = ByteRanges(loader.workspace, mapped=mapped)
    batches = loader.epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_a_shard_of_another_atlas_is_refused(cohort, small_atlas):
    workspace, entries = cohort
    other = dataclasses.replace(small_atlas, blocks_N=np.zeros_like(small_atlas.blocks_N))
    loader = Feed(workspace, entries, other, scans_per_batch=2, locations_per_batch=2)
    with pytest.raises(StageError, match="does not fit the atlas"):
        next(loader.epoch(0))


def test_epochs_and_seeds_differ(cohort, small_atlas):
    def order(seed, epoch):
        return [tuple(b.locations_G.tolist()) for b in feed(cohort, small_atlas, seed=seed).epoch(epoch)]

    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) == order(1, 0)


def test_more_scans_a_batch_than_there_are(cohort, small_atlas):
    batches = list(feed(cohort, small_atlas, batch=100).epoch(0))
    assert all(sorted(b.scans_S.tolist()) == list(range(SCANS)) for b in batches)


def test_more_workers_than_scans_is_said(cohort, small_atlas):
    with pytest.raises(StageError, match="num_workers"):
        feed(cohort, small_atlas, world=7)


def test_a_shard_that_vanished_stops_the_feed_with_its_name(cohort, small_atlas, tmp_path):
    _, entries = cohort
    broken = Feed(Workspace(tmp_path), entries, small_atlas, scans_per_batch=2, locations_per_batch=2)
    with pytest.raises(StageError, match="has no shard"):
        next(broken.epoch(0))


def test_shards_of_any_codec_and_page_version_are_served_alike(cohort, small_atlas, tmp_path):
    """Rewritten by pyarrow's defaults: dictionaries, snappy or gzip, pages of version 2."""
    source, entries = cohort
    workspace, rewritten = Workspace(tmp_path), []
    for number, entry in enumerate(entries):
        file = pq.ParquetFile(source.path(PATCHES, f"{entry.scan_id}.parquet"))
        sink, footer = pa.BufferOutputStream(), pa.BufferOutputStream()
        options = {"compression": ("snappy", "gzip")[number % 2], "data_page_version": "2.0"}
        with pq.ParquetWriter(sink, file.schema_arrow, **options) as writer:
            for group in range(file.num_row_groups):
                writer.write_table(file.read_row_group(group))
        data = sink.getvalue().to_pybytes()
        pq.read_metadata(pa.BufferReader(data)).write_metadata_file(footer)
        workspace.write_bytes(data, PATCHES, f"{entry.scan_id}.parquet")
        rewritten.append(dataclasses.replace(entry, footer=footer.getvalue().to_pybytes()))
    own = list(feed(cohort, small_atlas).epoch(0))
    other = list(feed((workspace, rewritten), small_atlas).epoch(0))
    assert len(own) == len(other) > 0
    for one, two in zip(own, other, strict=True):
        assert torch.equal(one.anchors(), two.anchors())
        assert torch.equal(one.neighbours(), two.neighbours())


@pytest.fixture(scope="module")
def distributed(tmp_path_factory) -> Workspace:
    """Seven scans at ten locations in three blocks: nothing divides by two."""
    return training_workspace(tmp_path_factory.mktemp("distributed"))


def feed_of(distributed, *, rank, world, own_blocks=True, batch=5):
    scans = training_scans(distributed, recipe_with())
    return Feed(
        distributed,
        scans,
        training_world.small_atlas(),
        scans_per_batch=batch,
        locations_per_batch=2,
        rank=rank,
        world=world,
        own_blocks=own_blocks,
    )


@pytest.mark.parametrize("own_blocks", [False, True])
def test_shares_that_differ_take_the_same_number_of_steps(distributed, own_blocks):
    """Two blocks here and one there, three scans and two, or one: no rank waits for a step that another leaves out."""
    for world in (1, 2, 3):
        feeds = [feed_of(distributed, rank=rank, world=world, own_blocks=own_blocks) for rank in range(world)]
        batches = [list(feed.epoch(0)) for feed in feeds]
        assert {len(found) for found in batches} == {feeds[0].steps_per_epoch()} == {12}
        for step in zip(*batches, strict=True):
            assert sum(len(batch.scans_S) for batch in step) == 5
            locations = [set(batch.locations_G.tolist()) for batch in step]
            if own_blocks:
                assert sum(map(len, locations)) == len(set.union(*locations))
            else:
                assert all(found == locations[0] for found in locations)


def test_passes_over_own_blocks_leave_nothing_out(distributed):
    """Passes follow one another through the epochs: each serves every scan at every location of the rank's."""
    loader = feed_of(distributed, rank=1, world=2)
    own = partition.locations_of(training_world.small_atlas(), 1, 2).tolist()
    seen: dict[int, Counter] = {}
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            pairs = [(int(s), int(g)) for s in batch.scans_S for g in batch.locations_G]
            seen.setdefault(batch.epoch, Counter()).update(pairs)
    assert len(seen) > 1
    for number in sorted(seen)[:-1]:  # the last one is not over yet
        assert set(seen[number]) == {
            (scan, location) for scan in range(training_world.SCANS) for location in own
        }
    whole = [batch.locations_G.tolist() for batch in loader.epoch(2)]
    assert [batch.locations_G.tolist() for batch in loader.epoch(2, start_step=7)] == whole[7:]


def test_alone_both_distributions_are_the_same(distributed):
    a, b = (feed_of(distributed, rank=0, world=1, own_blocks=own) for own in (False, True))
    for one, other in zip(a.epoch(1), b.epoch(1), strict=True):
        assert torch.equal(one.locations_G, other.locations_G)
        assert torch.equal(one.anchors(), other.anchors())
