"""Trials on TensorBoard and MLflow: the newest of a name counts; MLflow has no searched configurations."""

import importlib.util

import pytest

from ctplatform.storage.workspace import Workspace
from ctplatform.tracking.trials import TrialEntry, TrialMLflow, TrialTensorBoard
from tests.ctplatform.evaluation_world import RUN, recipe

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="MLflow is an extra: pip install 'drasclr[mlflow]'"
)


def test_an_entry_replaces_an_older_one_of_its_name(tmp_path):
    board = TrialTensorBoard(Workspace(tmp_path), RUN)
    assert board.known == set()
    for fingerprint, score in (("aaaa", 0.25), ("bbbb", 0.5)):
        board.add(TrialEntry("search/cell-0", fingerprint, {"lr": 0.1, "task": "x"}, [(10, "loss", score)]))
    board.add(TrialEntry("cell", "cccc", {"lr": 0.1}, [(10, "r2", 0.75)]))
    assert board.known == {"bbbb", "cccc"}


@needs_mlflow
def test_searched_configurations_are_not_sent_to_mlflow(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    sender = TrialMLflow(Workspace(tmp_path / "ws"), recipe(), RUN, uri=uri)
    sender.add(TrialEntry("search/cell-0", "aaaa", {"lr": 0.1}, [(10, "validation_loss", 0.5)]))
    sender.add(TrialEntry("cell", "bbbb", {"lr": 0.2}, [(10, "r2", 0.75)]))
    sender.close()
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("drasclr").experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["cell", f"sweep of {RUN}"]
    (child,) = [run for run in runs if run.info.run_name == "cell"]
    assert (child.data.metrics, child.data.params) == ({"r2": 0.75}, {"lr": "0.2"})
