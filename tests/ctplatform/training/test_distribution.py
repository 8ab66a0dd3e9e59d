"""Two workers compute what one does, or what a few lines by hand do; resumed == uninterrupted.

The workers are gloo processes; the normalisation is over groups of channels, for statistics over a batch differ with
the part of it that a worker sees. Tolerances are those of sums in another order: after five steps parameters and keys
agree to 1e-5 (measured: 2e-6 and 1e-6), losses of about 3 to 5e-5 (measured: 3e-6, and 2e-5 by hand).
"""

from __future__ import annotations

import math
import re
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctplatform.training import partition
from ctplatform.training.feed import Feed
from ctplatform.training.loop import Loop
from ctplatform.training.model import build_model
from ctplatform.training.online_probe import OnlineProbe
from ctplatform.training.runs import training_scans
from drasclr import augment, weights
from drasclr.memory import KeyMemory
from tests.ctplatform.training_world import (
    PROBED,
    SELECTING,
    recipe_with,
    run_loop,
    same_memory,
    same_model,
    small_atlas,
    train,
    training_workspace,
    workers,
)

TOLERANCE, LOSS_TOLERANCE = 1e-5, 5e-5


STEPS = ("pretrain.max_steps=5",)


PARALLEL = (*STEPS, "pretrain.memory=location_parallel")


# With shuffled keys the batch of each worker matters: a resumed run must draw the same permutations.
MIXED = (*STEPS, "pretrain.shuffle_keys=true", "pretrain.encoder.norm=batch", "pretrain.scans_per_batch=4")


# Every option of the losses, the schedule and the optimiser that is off by default.
OPTIONS = (
    *STEPS,
    "pretrain.location_norm=true",
    "pretrain.decoupled=true",
    "pretrain.variance_weight=0.1",
    "pretrain.momentum_end=0.99",
    "pretrain.routing_gain=4",
    "pretrain.routing_lr=3",
    "pretrain.clip_norm=0.5",
)


# The statistics of a step differ with the part of a batch that a worker sees: this one changes next to nothing.
BATCH_NORM = ("pretrain.encoder.norm=batch", "pretrain.max_steps=1", "pretrain.lr=1e-9")


ONCE = (*STEPS, "pretrain.encode_once=true", "pretrain.locations_per_batch=4")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("distribution"))


@pytest.fixture(scope="module")
def pairs(workspace, tmp_path_factory):
    """All that two workers train in this module, in one go: starting them costs more than the training."""
    return workers(
        workspace.uri,
        tmp_path_factory.mktemp("pairs"),
        ("replicated", STEPS, None),
        ("handed-on", STEPS, 2),
        ("parallel", (*PARALLEL, "pretrain.augment=false"), None),
        ("parallel-cut", (*PARALLEL, "pretrain.augment=false"), 2),
        ("options", OPTIONS, None),
        ("mixed", MIXED, None),
        ("mixed-cut", MIXED, 4),
        ("selecting", (*SELECTING, "pretrain.patience=1", "pretrain.epochs=6"), None),
        ("normed", BATCH_NORM, None),
        ("once", ONCE, None),
        ("once-cut", ONCE, 2),
    )


def test_two_workers_are_one_with_the_whole_batch(workspace, pairs):
    """Three scans on one worker and two on the other; negatives of the batch and order of the memory included."""
    whole = train(workspace, recipe_with(*STEPS), "one")
    assert whole["step"] == 5
    assert len(set(whole["losses"])) == 5
    for rank in range(2):
        pair = pairs["replicated"][rank]
        same_model(whole, pair, tolerance=TOLERANCE)
        same_memory(whole, pair, tolerance=TOLERANCE)
    np.testing.assert_allclose(pairs["replicated"][0]["losses"], whole["losses"], atol=LOSS_TOLERANCE)


def test_two_workers_are_one_with_every_option(workspace, pairs):
    """Statistics of a location are over the scans of both workers."""
    whole = train(workspace, recipe_with(*OPTIONS), "one-options")
    for rank in range(2):
        same_model(whole, pairs["options"][rank], tolerance=TOLERANCE)
        same_memory(whole, pairs["options"][rank], tolerance=TOLERANCE)
    np.testing.assert_allclose(pairs["options"][0]["losses"], whole["losses"], atol=LOSS_TOLERANCE)
    plain = train(workspace, recipe_with(*STEPS), "one")
    assert plain["losses"][0] != whole["losses"][0]


def test_two_workers_are_one_that_encodes_each_patch_once_and_resume(workspace, pairs):
    whole = train(workspace, recipe_with(*ONCE), "one-once")
    for rank in range(2):
        same_model(whole, pairs["once"][rank], tolerance=TOLERANCE)
        same_memory(whole, pairs["once"][rank], tolerance=TOLERANCE)
    np.testing.assert_allclose(pairs["once"][0]["losses"], whole["losses"], atol=LOSS_TOLERANCE)
    assert pairs["once-cut"][0]["step"] == 2
    rest = train(workspace, recipe_with(*ONCE), "once-cut")
    assert rest["step"] == 5
    same_model(whole, rest, tolerance=TOLERANCE)
    same_memory(whole, rest, tolerance=TOLERANCE)


def test_one_worker_resumes_where_two_stopped(workspace, pairs):
    whole = train(workspace, recipe_with(*STEPS), "one")
    assert pairs["handed-on"][0]["step"] == 2
    rest = train(workspace, recipe_with(*STEPS), "handed-on")
    assert rest["step"] == 5
    same_model(whole, rest, tolerance=TOLERANCE)
    same_memory(whole, rest, tolerance=TOLERANCE)
    np.testing.assert_allclose(rest["losses"], whole["losses"], atol=LOSS_TOLERANCE)


class ByHand:
    """The whole of location_parallel in one process: memory in lists, losses pair by pair, gradients added up."""

    def __init__(self, workspace, recipe, world):
        self.recipe, self.config, self.atlas = recipe, recipe.pretrain, small_atlas()
        scans = training_scans(workspace, recipe)
        self.feeds = [
            Feed(
                workspace,
                scans,
                self.atlas,
                scans_per_batch=self.config.scans_per_batch,
                locations_per_batch=self.config.locations_per_batch,
                seed=self.config.seed,
                rank=rank,
                world=world,
                own_blocks=True,
            )
            for rank in range(world)
        ]
        torch.manual_seed(self.config.seed)
        self.model = build_model(self.config, self.atlas).train()
        self.memory: dict[int, deque] = {
            location: deque(maxlen=self.config.queue_size) for location in range(self.atlas.num_locations)
        }
        self.losses: list[float] = []

    def embed(self, encoder, hu_SDHW, location):
        coordinates = torch.from_numpy(np.array(self.atlas.coordinates_N3))[location].float()
        patches = augment.normalise(hu_SDHW, hu_window=self.recipe.prepare.hu_window)
        return F.normalize(encoder.project(encoder.grouped(patches[None], coordinates[None])), dim=-1)[0]

    def loss(self, batch):
        """(mean loss of one worker, its keys by location and scan)."""
        terms, keys = [], {}
        for g, location in enumerate(batch.locations_G.tolist()):
            query_SD = self.embed(self.model.query, batch.anchors()[g], location)
            near = [
                self.embed(self.model.query, batch.neighbours()[g, k], int(place))
                for k, place in enumerate(batch.neighbour_locations_GK[g])
            ]
            context_SD = torch.stack(near).mean(0)
            with torch.no_grad():
                key_SD = self.embed(self.model.key, batch.anchors()[g], location)
            keys[location] = key_SD
            subjects = batch.subjects_S.tolist()
            for s, subject in enumerate(subjects):
                negatives = [key for whose, key in self.memory[location] if whose != subject]
                negatives += [key_SD[t] for t in range(len(subjects)) if t != s and subjects[t] != subject]
                for vector in (query_SD[s], context_SD[s]):
                    logits = torch.stack([vector @ key for key in [key_SD[s], *negatives]])
                    terms.append(-(logits / self.config.temperature).log_softmax(0)[0])
        return 2 * torch.stack(terms).mean(), keys

    def run(self, steps):
        optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=self.config.lr,
            momentum=self.config.sgd_momentum,
            weight_decay=self.config.weight_decay,
        )
        streams = [feed.epoch(0) for feed in self.feeds]
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.no_grad():
                for key, query in zip(
                    self.model.key.parameters(), self.model.query.parameters(), strict=True
                ):
                    key.copy_(self.config.momentum * key + (1 - self.config.momentum) * query)
            batches = [next(stream) for stream in streams]
            found = [self.loss(batch) for batch in batches]
            total = sum(
                loss * len(batch.scans_S) / self.config.scans_per_batch
                for batch, (loss, _) in zip(batches, found, strict=True)
            )
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            self.losses.append(float(total.detach()))
            for batch, (_, keys) in zip(batches, found, strict=True):
                for location, key_SD in keys.items():
                    self.memory[location].extend(zip(batch.subjects_S.tolist(), key_SD, strict=True))


def test_each_with_its_own_locations_is_what_a_hand_computes(workspace, pairs):
    recipe = recipe_with(*PARALLEL, "pretrain.augment=false")
    hand = ByHand(workspace, recipe, 2)
    hand.run(5)
    ranks = pairs["parallel"]
    np.testing.assert_allclose(ranks[0]["losses"], hand.losses, atol=LOSS_TOLERANCE)
    for name, value in hand.model.state_dict().items():
        for rank in range(2):
            torch.testing.assert_close(ranks[rank]["model"][name], value, rtol=0, atol=TOLERANCE, msg=name)
    seen = []
    for rank in range(2):
        memory = ranks[rank]["memory"]
        assert memory["locations"].tolist() == partition.locations_of(small_atlas(), rank, 2).tolist()
        for row, location in enumerate(memory["locations"].tolist()):
            seen.append(location)
            expected, count = hand.memory[location], int(memory["count"][row])
            assert count == len(expected)
            # The ring's oldest key is where it writes next, once it is full.
            first = int(memory["pointer"][row]) if count == recipe.pretrain.queue_size else 0
            order = [(first + i) % max(count, 1) for i in range(count)]
            assert memory["subjects"][row][order].tolist() == [subject for subject, _ in expected]
            for slot, (_, key) in zip(order, expected, strict=True):
                torch.testing.assert_close(memory["keys"][row, slot], key, rtol=0, atol=TOLERANCE)
    assert sorted(seen) == list(range(10)), "every location is held once"
    assert sum(len(keys) for keys in hand.memory.values()) > 20


@pytest.fixture(scope="module")
def resumed(workspace, pairs, tmp_path_factory):
    """The runs that were cut off, resumed by new processes."""
    assert [result["step"] for result in (*pairs["parallel-cut"], *pairs["mixed-cut"])] == [2, 2, 4, 4]
    return workers(
        workspace.uri,
        tmp_path_factory.mktemp("resumed"),
        ("parallel-cut", (*PARALLEL, "pretrain.augment=false"), None),
        ("mixed-cut", MIXED, None),
    )


@pytest.mark.parametrize("run", ["parallel", "mixed"])
def test_two_workers_resumed_are_uninterrupted(pairs, resumed, run):
    """Bit for bit: a sum of two has one order. Own memories come back to their ranks, drawn places are drawn again.

    Left out are running statistics of ranks above 0, which no step reads and which are replaced at the end.
    """
    for rank, (whole, again) in enumerate(zip(pairs[run], resumed[f"{run}-cut"], strict=True)):
        for name, value in whole["model"].items():
            if rank == 0 or not re.search("running|tracked", name):
                assert torch.equal(again["model"][name], value), name
        same_memory(whole, again, tolerance=0)
    assert resumed[f"{run}-cut"][0]["losses"] == pairs[run][0]["losses"]


@pytest.mark.parametrize("world", [1, 3])
def test_split_memories_are_read_by_any_number_of_workers(workspace, pairs, world):
    written = [result["memory"] for result in pairs["parallel"]]
    for rank in range(world):
        own = torch.from_numpy(partition.locations_of(small_atlas(), rank, world))
        memory = KeyMemory(10, 8, 128, locations=own)
        memory.load_state_dict(*written)
        for location in own.tolist():
            (source,) = [state for state in written if location in state["locations"]]
            row = source["locations"].tolist().index(location)
            count = int(source["count"][row])
            place = torch.tensor([location])
            assert int(memory.filled(place)) == count
            if count:
                stored = memory.negatives(place)
                assert torch.equal(stored.keys_GMD[0], source["keys"][row, :count])
                assert torch.equal(stored.subjects_GM[0], source["subjects"][row, :count])
    with pytest.raises(ValueError, match="lacks the locations"):
        KeyMemory(10, 8, 128).load_state_dict(written[0])


def test_a_run_of_two_workers_is_resumed_by_one(workspace, pairs):
    recipe = recipe_with(*PARALLEL, "pretrain.augment=false")
    loop = Loop(workspace, recipe, "parallel", rank=0, world=1, device=torch.device("cpu"))
    loop.resume()
    assert loop.step == 5
    assert loop.model.memory.count_N.sum() == sum(r["memory"]["count"].sum() for r in pairs["parallel"])


def test_two_workers_stop_together_where_the_probe_of_one_says_so(workspace, pairs):
    steps = [result["step"] for result in pairs["selecting"]]
    selection = workspace.read_json("pretrain", "selecting", "card.json")["provenance"]["selection"]
    assert steps == [selection["trained_steps"]] * 2
    assert selection["step"] == selection["trained_steps"] - 3, "an epoch without a better probe"
    assert selection["trained_steps"] < 18, "stopped early"


def test_the_work_before_and_after_training_is_shared(workspace, pairs):
    """Statistics of the published normalisation, and the score before training, are those of one worker."""
    run_loop(workspace, recipe_with(*BATCH_NORM), "one-normed")
    one, two = (weights.load(workspace.path("pretrain", run)) for run in ("one-normed", "normed"))
    changed = 0
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-5, atol=1e-5, msg=name)
        changed += "running" in name and bool((value != (0 if name.endswith("mean") else 1)).all())
    assert changed == sum("running" in name for name in one.state_dict()) > 0
    loop = Loop(workspace, recipe_with(*SELECTING), "one-probed", rank=0, world=1, device=torch.device("cpu"))
    loop.probe = OnlineProbe(workspace, recipe_with(*SELECTING), "one-probed", PROBED, loop.atlas)
    loop.probe.write_baselines(loop.model.query)
    alone, shared = (
        workspace.read_json("pretrain", run, "probe.json") for run in ("one-probed", "selecting")
    )
    assert shared == pytest.approx(alone, abs=1e-6)
