"""The sweep on TensorBoard and MLflow: what they hold is what the tables hold; a trial is there once."""

from __future__ import annotations

import importlib.util
import logging
import time

import pandas as pd
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.errors import ConfigError
from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.dashboards import Dashboards, places
from ctplatform.evaluation.sweep import sweep
from ctplatform.evaluation.trial import evaluate
from ctplatform.metrics.scores import METRICS
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.evaluation_world import RUN, build, recipe

TASKS = ["emphysema_extent", "survival"]
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is an extra: pip install 'drasclr[mlflow]'"
)


@pytest.fixture
def world(tmp_path):
    """Shared problems, and four committed trials."""
    workspace, cohort = build(tmp_path / "ws", subjects=24, with_shards=False)
    context, _ = assemble(workspace, cohort, recipe(), run=RUN)
    cells = [Cell(task, name, 1.0, 0) for task in TASKS for name in ("drasclr", "density")]
    return context, [evaluate(context, cell) for cell in cells]


def tracked(**keys):
    return recipe().model_copy(
        update={"watch": load_recipe("fast", [f"watch.{k}={v}" for k, v in keys.items()]).watch}
    )


def events(context):
    """All that TensorBoard's own reader finds, by run."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin_data = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    found = {}
    root = ("evaluation", RUN, "tensorboard")
    for folder in context.workspace.folders(*root):
        reader = event_accumulator.EventAccumulator(context.workspace.path(*root, folder)).Reload()
        scalars = {tag: reader.Scalars(tag)[0] for tag in reader.Tags()["scalars"]}
        content = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        info = plugin_data.HParamsPluginData.FromString(content).session_start_info
        values = {k: v.string_value or v.number_value for k, v in info.hparams.items()}
        found[folder] = scalars, values
    return found


def test_tensorboard_holds_values_and_scores_of_every_trial(world):
    context, trials = world
    boards = Dashboards(context, tracked())
    for trial in trials:
        boards.committed(trial.cell)
    boards.close()
    found = events(context)
    assert set(found) == {trial.cell.name for trial in trials}
    for trial in trials:
        scalars, values = found[trial.cell.name]
        assert values["task"] == trial.cell.task
        assert values["initialisation"] == trial.cell.initialisation
        assert values["penalty"] == pytest.approx(trial.details["penalty"])
        name = "c_index" if trial.cell.task == "survival" else "r2"
        test = context.problems[trial.cell.task].test
        expected = METRICS[name].value(test, trial.predictions["prediction"].to_numpy())
        assert scalars[name].value == pytest.approx(expected, rel=1e-5)
        assert scalars[name].step == trial.n_train


def test_a_trial_committed_without_dashboards_is_shown_once(world):
    context, trials = world
    boards = Dashboards(context, tracked())
    boards.committed(trials[0].cell)
    times = {f: i.mtime_ns for f, i in files(context).items()}
    boards.show(trials)
    after = {f: i.mtime_ns for f, i in files(context).items()}
    assert len(after) == 4
    assert {f: after[f] for f in times} == times
    assert not Dashboards(context, tracked(tensorboard="false"))._boards


def files(context):
    root = ("evaluation", RUN, "tensorboard")
    infos = [i for folder in context.workspace.folders(*root) for i in context.workspace.infos(*root, folder)]
    return {info.path: info for info in infos}


@needs_mlflow
def test_mlflow_has_a_parent_and_a_child_for_each_trial(world, tmp_path):
    from mlflow import MlflowClient

    context, trials = world
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for first in (True, False):  # the second time, as a resumed sweep
        boards = Dashboards(context, tracked(), mlflow=uri)
        boards.show(trials[:2] if first else trials)
        boards.close()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("drasclr").experiment_id
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert len(parents) == 1
    assert len(runs) == 5, "no trial is there twice"
    assert set(children) == {trial.cell.name for trial in trials}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parents[0].info.run_id}
    assert {run.info.status for run in runs} == {"FINISHED"}
    child = children["survival-drasclr-1-0"]
    assert child.data.params["initialisation"] == "drasclr"
    risk = trials[2].predictions["prediction"].to_numpy()
    assert child.data.metrics["c_index"] == METRICS["c_index"].value(context.problems["survival"].test, risk)


@needs_mlflow
def test_a_pickled_copy_has_no_dashboards(world, tmp_path):
    import cloudpickle

    context, trials = world
    boards = Dashboards(context, tracked(), mlflow=f"sqlite:///{tmp_path / 'mlflow.db'}")
    copy = cloudpickle.loads(cloudpickle.dumps(boards))
    boards.close()
    copy.committed(trials[0].cell)
    copy.close()
    assert not files(context), "a copy shows nothing"


@needs_mlflow
def test_an_unreachable_server_stops_nothing(world, caplog, monkeypatch):
    context, trials = world
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("ctplatform.tracking.sender.CLOSE_TIMEOUT_S", 0.2)
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        boards = Dashboards(context, tracked(), mlflow="http://127.0.0.1:9")
        boards.show(trials)
        boards.close()
    assert "MLflow has not received all trials" in caplog.text
    assert len(files(context)) == 4
    assert time.monotonic() - start < 20


def test_a_wrong_uri_ends_the_sweep_before_it_begins(tmp_path):
    with pytest.raises(ConfigError, match="no tracking URI"):
        sweep(Workspace(tmp_path), pd.DataFrame(), tracked(mlflow="file:///x"), run=RUN)


def test_addresses_have_no_passwords(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    lines = places(
        Workspace(tmp_path), recipe(), RUN, ray="127.0.0.1:8265", mlflow="https://me:secret@host:5000"
    )
    text = "\n".join(lines)
    assert "http://127.0.0.1:8265" in text
    assert f"tensorboard --logdir {tmp_path}/evaluation/{RUN}/tensorboard" in text
    assert "host:5000" in text
    assert "secret" not in text
    assert "get-auth-token" not in text


def test_the_ray_dashboards_line_names_the_token(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    (line, *_) = places(Workspace(tmp_path), recipe(), RUN, ray="127.0.0.1:8265", mlflow=None)
    assert line.startswith("Ray dashboard: http://127.0.0.1:8265 ")
    assert "`ray get-auth-token`" in line
