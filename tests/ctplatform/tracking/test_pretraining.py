"""Trackers record what metrics.jsonl holds, each step once, also after a kill; no failure of theirs stops a run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.graph import GRAPH
from ctplatform.storage.workspace import Workspace
from ctplatform.tracking import pretraining as module
from ctplatform.tracking.pretraining import PretrainingTensorBoard, PretrainingTracker, summarised
from ctplatform.training.loop import Loop
from ctplatform.training.runs import read_metrics, run_name
from tests.conftest import SMALL
from tests.ctplatform.objectstore import ObjectStore


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    server = ObjectStore()
    yield server
    server.close()


def recipe_with(*overrides):
    return load_recipe("demo", [*SMALL, "pretrain.beta=0", *overrides])


class Killed(BaseException):
    """Ends a loop in the middle of a step."""


def train(workspace, recipe, *, mlflow=None, killed_in=None) -> Loop:
    """A tracked loop in this process, from its newest checkpoint on; killed in the middle of step `killed_in`."""
    loop = Loop(workspace, recipe, "run", rank=0, world=1, device=torch.device("cpu"))
    loop.resume()
    loop.log.tracker = PretrainingTracker(workspace, recipe, "run", mlflow=mlflow)
    step = loop.train_step

    def train_step(batch):
        if loop.step + 1 == killed_in:
            raise Killed
        return step(batch)

    loop.train_step = train_step
    with contextlib.suppress(Killed):
        loop.run()
    return loop


def scalars(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Everything that TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def shown_in(client) -> list[int]:
    """Steps of the loss in all runs of the experiment."""
    experiment = client.get_experiment_by_name("drasclr")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return [m.step for run in runs for m in client.get_metric_history(run.info.run_id, "loss")]


def until(condition) -> None:
    """Wait for a thread's work, a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_both_trackers_continue_a_killed_run(workspace, tmp_path):
    """Steps that a killed worker had shown after its last checkpoint are not shown twice."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    assert train(workspace, recipe_with(), mlflow=uri, killed_in=6).step == 5  # one after the last checkpoint
    # In this process the sending thread outlives the kill; in a killed one the lines would be sent after the resume.
    until(lambda: shown_in(client) == [1, 2, 3, 4, 5])
    loop = train(workspace, recipe_with(), mlflow=uri)
    lines = read_metrics(workspace, "run")
    assert [line["step"] for line in lines] == list(range(1, 7)) == [line["step"] for line in loop.log.lines]

    shown = scalars(workspace.path("pretrain", "run", "tensorboard"))
    assert {"loss", "local", "global", "effective_rank", "patches_per_s", "data_wait", "lr"} <= set(shown)
    for tag in ("loss", "local", "effective_rank", "lr"):
        assert [step for step, _ in shown[tag]] == list(range(1, 7)), tag
        assert [v for _, v in shown[tag]] == pytest.approx([line[tag] for line in lines], rel=1e-6)

    assert shown_in(client) == list(range(1, 7))
    (run,) = client.search_runs([client.get_experiment_by_name("drasclr").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.info.run_id == workspace.read_json("pretrain", "run", "mlflow.json")["run_id"]
    assert run.data.params["encoder.experts"] == "8"
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert list(history.values()) == pytest.approx([line["loss"] for line in lines])
    # No user, path or host is recorded.
    recorded = json.dumps({**run.data.tags, **run.data.params})
    assert str(tmp_path) not in recorded
    assert os.environ.get("USER", "root") not in run.data.tags.values()
    assert not {"mlflow.user", "mlflow.source.name"} & set(run.data.tags)


def test_a_server_that_is_down_stops_nothing(workspace, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(workspace, recipe_with("pretrain.max_steps=2"), mlflow="http://127.0.0.1:9")  # no server
    assert workspace.exists("pretrain", "run", "card.json")
    assert "MLflow does not take the metrics" in caplog.text
    assert "metrics.jsonl has them" in caplog.text


def test_event_files_on_an_object_store_show_each_step_once(store, tmp_path, monkeypatch):
    """Uploaded in parts, by a process that was killed and by the one that goes on after step 4."""
    monkeypatch.setattr(module, "UPLOAD_BYTES", 100)
    workspace = Workspace(store.uri("ws"))
    for first, last in ((1, 6), (5, 8)):
        board = PretrainingTensorBoard(workspace, "run")
        for step in range(first, last + 1):
            board.log(step, {"step": step, "loss": 10.0 * first + step})
            board.flush()
    assert len(workspace.files("pretrain", "run", "tensorboard")) > 2
    for name in workspace.files("pretrain", "run", "tensorboard"):
        (tmp_path / name).write_bytes(workspace.read_bytes("pretrain", "run", "tensorboard", name))
    expected = [(step, 10.0 * (1 if step < 5 else 5) + step) for step in range(1, 9)]
    assert scalars(tmp_path)["loss"] == expected


def test_tracking_renames_no_run_and_redoes_nothing(prepared, small_recipe):
    workspace, _ = prepared
    other = load_recipe("demo", [*SMALL, "watch.mlflow=http://host:1", "pretrain.probe.every_epochs=7"])
    assert run_name(workspace, other) == run_name(workspace, small_recipe)
    settings = [GRAPH["pretrain"].settings_in(r) for r in (other, small_recipe)]
    assert settings[0] == settings[1]


def test_training_imports_no_tracker_before_it_is_used():
    """MLflow takes seconds to import; runs without it should not wait."""
    code = "import sys, ctplatform.tracking.pretraining, ctplatform.training.loop; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlflow", "tensorboardX"} & set(done.stdout.split())


def test_the_console_line_says_what_matters():
    line = {
        "loss": 4.25,
        "local": 2.0,
        "global": 2.25,
        "top1": 0.125,
        "effective_rank": 23.4,
        "patches_per_s": 35.2,
        "data_wait": 0.013,
    }
    assert summarised(line) == (
        "loss 4.25 (local 2.00, global 2.25), top-1 12%, rank 23, 35 patches/s, 1% wait"
    )
    assert "probe 0.61" in summarised(line | {"probe": 0.61})
    assert "top-1" not in summarised(line | {"top1": float("nan")})
