"""The work list in waves: all scans, each once; a wave whose process dies is repeated, or ends with an error."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest

from ctplatform.compute.isolation import in_this_process, isolated
from ctplatform.compute.ray_internals import CPU_COUNTING, TASK_POLLING
from ctplatform.config.loader import load_recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import ScanError, StageError
from ctplatform.preparation import prepare as preparing
from ctplatform.preparation import waves
from ctplatform.preparation.plan import make_plan, settings_hash
from ctplatform.preparation.prepare import prepare
from ctplatform.preparation.scan import commit, new_row
from ctplatform.storage import layout
from tests.cluster.processes import until


def quick(workspace, item, config, atlas, template, clock, config_hash):
    """In place of `process_scan`: a measure of the file, and no patches. Leaves a file for each time that it ran."""
    path = Path(item["path"])
    path.with_name(f"{item['scan_id']}.{time.time_ns()}.ran").touch()
    words = path.read_text().split()
    if "slow" in words:
        time.sleep(0.3)
    if "bad" in words:
        raise ScanError("it is bad", "Take another", code="bad")
    if "full" in words:
        raise StageError("the disk is full", "Empty it", code="full")
    return {"state": "accepted", "mean_hu": float(len(words[0]))}


@pytest.fixture
def workspace(unprepared):
    return unprepared


@pytest.fixture
def cohort(tmp_path):
    """Seven scans, the third a bad one."""
    return table(tmp_path, ["quick"] * 2 + ["bad"] + ["quick"] * 4)


def table(folder: Path, words: list[str]) -> pd.DataFrame:
    rows = []
    for k, word in enumerate(words):
        path = folder / f"s{k}.nii.gz"
        path.write_text(f"{'x' * k}x {word}")
        rows.append({"scan_id": f"s{k}", "subject_id": f"p{k}", "path": str(path), "series_uid": ""})
    return pd.DataFrame(rows)


def waves_running() -> list[psutil.Process]:
    """The processes that run a wave in this process's Ray; other test processes have their own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if (process.cmdline() or [""])[0].startswith("ray::_wave"):
                found.append(process)
    return found


def work(workspace, recipe, cohort):
    """(items of the plan, the worker that prepares one)."""
    atlas_hash = read_atlas(workspace).hash
    items = make_plan(workspace, cohort, recipe, atlas_hash).items
    return items, waves.Preparer(workspace, recipe.prepare, settings_hash(recipe, atlas_hash), quick)


def run(workspace, recipe, cohort, size, *, how=isolated, on_progress=None):
    """In parts of `size`, each of them a wave, since 2 CPUs are few."""
    items, worker = work(workspace, recipe, cohort)
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    waves.prepare_in_waves(parts, worker, recipe, runner=how, total=len(items), on_progress=on_progress)


@pytest.mark.parametrize("how", [isolated, in_this_process])
def test_all_scans_of_all_waves_each_once(workspace, small_recipe, cohort, tmp_path, how):
    reported = []
    run(workspace, small_recipe, cohort, 3, how=how, on_progress=lambda *progress: reported.append(progress))
    rows = ledger.read_ledger(workspace).set_index("scan_id")
    assert list(rows.index) == list(cohort["scan_id"])
    assert rows["state"].tolist() == ["accepted"] * 2 + ["failed"] + ["accepted"] * 4
    assert rows["mean_hu"].dropna().tolist() == [1, 2, 4, 5, 6, 7], "each its own"
    assert len(list(tmp_path.glob("*.ran"))) == 7
    assert reported == [(k, 7) for k in range(1, 8)]


def test_planned_and_counted_in_isolation_it_is_the_same(workspace, small_recipe, cohort, monkeypatch):
    """As for large cohorts: the driver holds neither items nor ledger."""
    monkeypatch.setattr(preparing, "PART_SIZE", 3)
    plans = []
    summary = prepare(workspace, cohort, small_recipe, on_plan=plans.append, process=quick)
    assert (summary.done, summary.skipped, summary.causes) == (7, 0, {"new": 7})
    assert summary.counts == {"accepted": 6, "flagged": 0, "rejected": 0, "failed": 1}
    assert summary.reasons == {"s2": "failed: it is bad"}
    assert plans[0].lines() == ["7 new"]
    assert plans[0].items == []
    again = prepare(workspace, cohort, small_recipe, process=quick)
    assert (again.done, again.skipped, again.counts) == (0, 7, summary.counts)
    with pytest.raises(StageError, match="no scan can be used: 1 failed"):
        prepare(workspace, cohort[2:3].loc[[2, 2, 2, 2]], small_recipe, process=quick)


@pytest.mark.parametrize("how", [isolated, in_this_process])
def test_an_error_that_is_not_a_scans_own_stops_the_run_as_it_is(workspace, small_recipe, tmp_path, how):
    cohort = table(tmp_path, ["quick", "full", "quick"])
    with pytest.raises(StageError, match="the disk is full") as caught:
        run(workspace, small_recipe, cohort, 2, how=how)
    assert (type(caught.value), caught.value.remedy, caught.value.code) == (StageError, "Empty it", "full")
    assert not list(tmp_path.glob("s2.*.ran")), "the next wave never began"


def test_a_wave_whose_process_dies_is_repeated(workspace, small_recipe, tmp_path):
    cohort = table(tmp_path, ["slow"] * 8)
    killed, reported = [], []

    def kill(done, total):
        reported.append((done, total))
        if done == 2:
            killed.extend(waves_running())
            for process in killed:
                process.kill()

    run(workspace, small_recipe, cohort, 8, on_progress=kill)
    assert len(killed) == 1
    rows = ledger.read_ledger(workspace)
    assert rows["state"].tolist() == ["accepted"] * 8
    assert reported == [(k, 8) for k in range(1, 9)], "nothing is counted twice"
    assert len(list(tmp_path.glob("*.ran"))) <= 8 + 2, "only what was running is done again"


@pytest.mark.parametrize("how", [isolated, in_this_process])
def test_an_interrupt_stops_the_tasks(workspace, small_recipe, tmp_path, how):
    """Raised where progress is reported."""
    cohort = table(tmp_path, ["slow"] * 40)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(workspace, small_recipe, cohort, 40, how=how, on_progress=interrupt)
    until(lambda: not waves_running(), seconds=30)

    def begun() -> int:
        return len(list(tmp_path.glob("*.ran")))

    def none_begins() -> bool:
        before = begun()
        time.sleep(1.0)
        return before == begun()

    until(none_begins, seconds=30)  # one that Ray had begun to start may still come
    assert begun() < 40


def test_ended_tasks_are_polled_often(workspace, small_recipe, cohort):
    items, worker = work(workspace, small_recipe, cohort)
    holder = TASK_POLLING.holder()
    usual = getattr(holder, TASK_POLLING.name)
    seen = [getattr(holder, TASK_POLLING.name) for _ in waves._wave(worker, small_recipe, items)]
    assert seen == [waves.POLLING_S] * 7
    assert usual > waves.POLLING_S
    assert usual == getattr(holder, TASK_POLLING.name)


def test_the_cpus_are_counted_often_until_the_first_scan_has_ended(workspace, small_recipe, cohort):
    items, worker = work(workspace, small_recipe, cohort)
    holder = CPU_COUNTING.holder()
    usual, seen = getattr(holder, CPU_COUNTING.name), []
    with pytest.MonkeyPatch.context() as patch:
        original = waves.one_task_a_scan

        class Watched:
            """The dataset, and the interval at which the executor starts on it."""

            def __init__(self, dataset):
                self.dataset, self.context = dataset, dataset.context

            def iter_rows(self):
                seen.append(getattr(holder, CPU_COUNTING.name))
                return self.dataset.iter_rows()

        patch.setattr(waves, "one_task_a_scan", lambda *given, **more: Watched(original(*given, **more)))
        seen += [getattr(holder, CPU_COUNTING.name) for _ in waves._wave(worker, small_recipe, items)]
    assert seen == [waves.COUNTING_S, *[usual] * 7]
    assert waves.COUNTING_S < usual == getattr(holder, CPU_COUNTING.name)


def test_a_scan_that_was_committed_stays_though_its_worker_died_each_time(workspace, monkeypatch):
    """A worker can die between the row and its answer to Ray, which then counts the scan as lost."""
    lost = SimpleNamespace(context=SimpleNamespace(), iter_rows=lambda: iter(()))
    monkeypatch.setattr(waves, "one_task_a_scan", lambda *_, **__: lost)
    items = [
        {"scan_id": name, "subject_id": name, "path": "", "fingerprint": "f", "version": 1}
        for name in ("whole", "lost")
    ]
    commit(workspace, new_row(items[0], "settings") | {"state": "accepted"})
    workspace.write_bytes(b"patches", *layout.shard("whole"))
    worker = waves.Preparer(workspace, load_recipe("demo").prepare, "settings", quick)
    assert list(waves._wave(worker, load_recipe("demo"), items)) == ["accepted", "failed"]
    rows = ledger.read_ledger(workspace).set_index("scan_id")
    assert rows["state"].to_dict() == {"whole": "accepted", "lost": "failed"}
    assert rows.loc["lost", "code"] == "crashed"
    assert workspace.exists(*layout.shard("whole"))
