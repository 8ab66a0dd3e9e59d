"""A night on a cluster: Ray's own autoscaler from zero, the workspace on an object store, nodes and the head lost.

Nodes are processes of this machine; the autoscaler (v2), the job's submission, the stages and what they ask for are the
real ones. The second half does again what the first one did, while nodes die in every stage and the store refuses.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from ctplatform.pipeline.prometheus import GAUGES
from tests.cluster.processes import Command, Head, environment, kill_node, until
from tests.ctplatform.objectstore import ObjectStore, Stored

pytestmark = pytest.mark.cluster

STORE = {"object_store_memory": 80_000_000}
NODES = {
    "cpu-prepare": {
        "resources": {"CPU": 1, "prepare": 1, **STORE},
        "labels": {"ray.io/market-type": "spot"},
        "max_workers": 2,
    },
    "gpu-train": {
        "resources": {"CPU": 1, "train": 1, **STORE},
        "labels": {"ray.io/market-type": "on-demand"},
        "max_workers": 1,
    },
}
RECIPE = (
    "phantom.subjects=8",
    "phantom.spacing_mm=3.0",
    "atlas.step=60",
    "atlas.max_scans=3",
    "pretrain.max_steps=6",
    "pretrain.checkpoint_every=2",
    "pretrain.log_every=1",
    "pretrain.scans_per_batch=4",
    "pretrain.num_workers=1",
    "embed.encoders=[drasclr]",
    "embed.scans_per_batch=2",
    "embed.num_workers=1",
    "sweep.initialisations=[drasclr,scratch]",
    "sweep.tasks=[emphysema_extent]",
    "sweep.seeds=2",
    "sweep.fractions=[1.0]",
    "sweep.bootstrap=200",
    "sweep.scratch.epochs=2",
    "sweep.scratch.locations=4",
    "sweep.max_concurrent=1",
    "placement.prepare.resources.prepare=1",
    "placement.prepare.labels={ray.io/market-type: spot}",
    "placement.pretrain.resources.train=1",
    "placement.pretrain.labels={ray.io/market-type: on-demand}",
    "placement.embed.resources.train=1",
    "placement.sweep.resources.train=1",
)
#: What a worker's title begins with while it works for a stage, and what its node must offer.
WORK = {
    "phantom": (r"ray::_make", "prepare"),
    "atlas": (r"ray::(Map\(_Masker|_mean_template)", "prepare"),
    "prepare": (r"ray::(Map\(Preparer|_tidy_ledger)", "prepare"),
    "pretrain": (r"ray::.*RayTrainWorker", "train"),
    "embed": (r"ray::Map\(_EmbedTask", "train"),
    "sweep": (r"ray::(ImplicitFunc|_trainable)", "train"),
}
LOST_IN = ("atlas", "prepare", "pretrain", "embed", "sweep")
#: What counts: not figures and pages, which show times as well.
KEPT = re.compile(
    r"ws/(atlas/(atlas\.json|lung_mask\.nii\.gz)|patches/.+\.parquet|embeddings/.+\.parquet"
    r"|evaluation/[^/]+/(results|predictions|summary)\.parquet|pretrain/[^/]+/weights\.safetensors)"
)
#: Columns that say when and how long, and where: not what came out.
CLOCKS = {"started", "committed", "seconds", "cpu_seconds", "steps", "finished"}


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    head = Head(folder, environment(folder), cpus=0, store_bytes=80_000_000, node_types=NODES)
    yield head
    head.stop()


def submit(head: Head, store: ObjectStore, log: Path, *more: str) -> Command:
    sets = [part for item in RECIPE for part in ("--set", item)]
    return head.submit(log, "--recipe", "demo", "--workspace", store.uri("ws"), *sets, *more)


class Observer:
    """Observes a cluster until it is stopped: nodes of each type, who works on which of them, our measures."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.counts: list[tuple[int, int]] = []
        self.places: dict[str, set[str]] = {stage: set() for stage in WORK}
        self.gauges: set[str] = set()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        for turn in itertools.count():
            if self.stop.wait(0.5):
                return
            now = self._count()
            if now is not None and self.counts[-1:] != [now]:
                self.counts.append(now)
            for stage, (title, _) in WORK.items():
                for _, raylet in self.head.workers(title):
                    self.places[stage] |= set(_resources(self.head, raylet)) & {"prepare", "train"}
            if turn % 4 == 0:
                self.gauges |= measures(self.head)

    def _count(self) -> tuple[int, int] | None:
        try:
            offers = [node["resources_total"] for node in self.head.nodes()]
        except OSError:
            return None
        return sum("prepare" in offer for offer in offers), sum("train" in offer for offer in offers)

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


def _resources(head: Head, raylet: psutil.Process) -> dict[str, float]:
    try:
        return head.resources(raylet)
    except psutil.Error:
        return {}


def measures(head: Head) -> set[str]:
    """Names of ours among what the head's node exports for Prometheus."""
    try:
        with urllib.request.urlopen(head.metrics, timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return set()
    return set(re.findall(r"^ray_(drasclr_\w+)\{", text, re.M))


def results(store: ObjectStore) -> dict[str, object]:
    """What a chain leaves behind, without times: tables row by row, everything else byte by byte."""
    found: dict[str, object] = {}
    for key in sorted(store.objects):
        data = store.objects[key].data
        if not KEPT.fullmatch(key):
            continue
        if key.endswith(".parquet") and not key.startswith("ws/patches/"):
            table = pq.read_table(io.BytesIO(data)).to_pandas()
            found[key] = table[[name for name in table if name not in CLOCKS]]
        else:
            found[key] = data
    assert len(found) > 15
    return found


def assert_same(ours: dict[str, object], theirs: dict[str, object]) -> None:
    """The same files, rows and bytes; what training computes within rounding, for sums of floats depend on who adds."""
    assert sorted(ours) == sorted(theirs)
    close = {"rtol": 1e-3, "atol": 1e-3}
    for key, value in theirs.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(ours[key], value, obj=key, **close)
        elif key.endswith(".safetensors"):
            one, other = safetensors.numpy.load(ours[key]), safetensors.numpy.load(value)
            assert sorted(one) == sorted(other)
            for name, array in other.items():
                np.testing.assert_allclose(one[name], array, err_msg=name, **close)
        else:
            assert ours[key] == value, key


@pytest.fixture(scope="module")
def undisturbed(head, store, tmp_path_factory):
    """(objects, observer) of the chain on a cluster that had no workers when it was submitted."""
    assert head.nodes() == []
    observer = Observer(head)
    job = submit(head, store, tmp_path_factory.mktemp("undisturbed") / "job.log")
    try:
        job.wait(seconds=900)
        until(lambda: observer.counts[-1:] == [(0, 0)], seconds=120)
    finally:
        job.end()
        observer.end()
    return copy.copy(store.objects), observer


def test_nodes_come_and_go_with_the_stages(undisturbed):
    _, observer = undisturbed
    counts = observer.counts
    assert counts[0] == counts[-1] == (0, 0), "from zero to zero"
    assert max(prepare for prepare, _ in counts) == 2
    assert max(train for _, train in counts) == 1
    first_train = next(place for place, (_, train) in enumerate(counts) if train)
    assert max(prepare for prepare, _ in counts[:first_train]) == 2, "prepare's nodes come first, and alone"
    assert (0, 1) in counts[first_train:], "prepare's nodes are gone while training goes on"


@pytest.mark.parametrize("stage", WORK)
def test_a_stage_runs_where_its_recipe_says(undisturbed, stage):
    _, observer = undisturbed
    assert observer.places[stage] == {WORK[stage][1]}


def test_a_running_job_exports_our_measures(undisturbed):
    _, observer = undisturbed
    assert observer.gauges == set(GAUGES)


def test_prometheus_finds_the_nodes_where_the_compose_file_looks(head):
    assert (head.temporary / "prom_metrics_service_discovery.json").exists()


def test_nodes_lost_in_every_stage_and_a_store_that_refuses(undisturbed, head, store, tmp_path):
    expected, _ = undisturbed
    wanted = _results_of(store, expected)
    store.objects.clear()
    for folder in ("phantom", "scans", "patches", "pretrain", "embeddings", "evaluation", "stages"):
        store.fail("PUT", f"ws/{folder}", times=2)
        store.fail("GET", f"ws/{folder}", times=2)
        store.fail("GET", f"ws/{folder}", times=20, status=0, seconds=0.2)
    lost: dict[str, int] = {}
    job = submit(head, store, tmp_path / "job.log")
    try:
        for stage in LOST_IN:
            title, _ = WORK[stage]
            raylet = job.until(lambda title=title: _working_node(head, title), detail=head.scaling)
            time.sleep(0.3)  # it is at work
            kill_node(raylet)
            lost[stage] = raylet.pid
        text = job.wait(seconds=900)
    finally:
        job.end()
    assert len(set(lost.values())) == len(LOST_IN), "one node a stage"
    assert "[report] done" in text
    assert all(fault.times == 0 for fault in store.faults if fault.status), "the store did refuse"
    assert_same(results(store), wanted)


def test_a_lost_head_is_gone_on_with_by_the_same_command(undisturbed, head, store, tmp_path):
    """Killed with everything on it while it trains; a new one is elsewhere and has no state."""
    expected, _ = undisturbed
    wanted = _results_of(store, expected)
    later = re.compile(r"ws/(pretrain|embeddings|evaluation|stages/(pretrain|embed|sweep|report))")
    store.faults.clear()
    store.objects.clear()
    store.objects.update({key: stored for key, stored in expected.items() if not later.match(key)})
    second = None
    first = Head(tmp_path, environment(tmp_path), cpus=0, store_bytes=80_000_000, node_types=NODES)
    job = submit(first, store, tmp_path / "first.log")
    try:
        job.until(
            lambda: any(re.match(r"ws/pretrain/.*/checkpoint.json", key) for key in list(store.objects))
        )
        first.stop(gently=False)
        until(lambda: "connection lost; the job runs on" in job.text(), seconds=240)
        job.end()
        second = Head(tmp_path, environment(tmp_path), cpus=0, store_bytes=80_000_000, node_types=NODES)
        again = submit(second, store, tmp_path / "second.log")
        text = again.wait(seconds=600)
    finally:
        job.end()
        first.stop()
        if second:
            second.stop()
    assert "[prepare] unchanged" in text
    assert "[pretrain] started: its last run was cut off" in text
    assert "[report] done" in text
    assert_same(results(store), wanted)


def _working_node(head: Head, title: str) -> psutil.Process | None:
    """One that does this work and that the autoscaler counts.

    One that dies before the autoscaler of Ray 2.60 has seen it alive stays in its books as a node to be ended.
    """
    for _, raylet in head.workers(title):
        with contextlib.suppress(psutil.Error):
            if head.is_counted(raylet):
                return raylet
    return None


def _results_of(store: ObjectStore, objects: dict[str, Stored]) -> dict[str, object]:
    now, store.objects = store.objects, objects
    try:
        return results(store)
    finally:
        store.objects = now
