"""The writer of tensorboardX that is not documented still does what event files rely on."""

from __future__ import annotations

import pytest

from ctplatform.tracking.event_files import EventFile


def scalars(folder) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_the_path_is_that_of_the_file_that_is_written(tmp_path):
    first, second = EventFile(tmp_path, 1), EventFile(tmp_path, 2)
    assert {first.path, second.path} == set(tmp_path.iterdir())
    assert (first.path.suffix, second.path.suffix) == (".00001", ".00002")
    sizes = first.path.stat().st_size, second.path.stat().st_size
    second.scalars(3, {"loss": 1.5})
    second.flush()
    assert first.path.stat().st_size == sizes[0]
    assert second.path.stat().st_size > sizes[1]
    first.close()
    second.close()


def test_a_flush_returns_once_everything_is_on_disk(tmp_path):
    file = EventFile(tmp_path, 1)
    for step in range(1, 201):
        file.scalars(step, {"loss": 1 / step, "lr": 0.5})
        if step in (1, 100):
            file.flush()
            assert [at for at, _ in scalars(tmp_path)["loss"]] == list(range(1, step + 1))
    file.close()
    shown = scalars(tmp_path)
    assert [value for _, value in shown["loss"]] == pytest.approx([1 / step for step in range(1, 201)])
    assert shown["lr"][-1] == (200, 0.5)


def test_a_restart_replaces_the_steps_from_it_on(tmp_path):
    killed = EventFile(tmp_path, 1)
    for step in (1, 2, 3, 4):
        killed.scalars(step, {"loss": float(step)})
    killed.close()
    resumed = EventFile(tmp_path, 2)
    resumed.restart(3)
    for step in (3, 4, 5):
        resumed.scalars(step, {"loss": 10.0 * step})
    resumed.close()
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0), (5, 50.0)]
