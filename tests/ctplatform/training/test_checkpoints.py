"""A checkpoint is whole or is none, wherever its writer is killed; the newest and best are kept; on disk and on S3."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ctplatform.errors import StageError
from ctplatform.storage.layout import CHECKPOINT_MANIFEST, CHECKPOINTS
from ctplatform.storage.workspace import TEMPORARY, Workspace
from ctplatform.training.checkpoints import Checkpoint, Checkpoints, folder_of, retained
from ctplatform.training.loop import Loop
from tests.conftest import ROOT
from tests.ctplatform.objectstore import ObjectStore
from tests.ctplatform.training_world import recipe_with, same_memory, same_model, train, training_workspace

STEPS = ("pretrain.max_steps=4",)
# Trains, and ends itself by SIGKILL at the chosen point of the checkpoint at step 4.
KILLED = """
import os, signal, sys
from ctplatform.training import checkpoints
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.training_world import recipe_with, train
uri, point = sys.argv[1:]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
store = checkpoints.Checkpoints
write, commit, delete = store.write, store.commit, Workspace.delete
if point == "half a file":
    class Half:
        def __reduce__(self):
            die()
    def write_half(self, step, name, state):
        write(self, step, name, {**state, "half": Half()} if step == 4 else state)
    store.write = write_half
elif point == "before it counts":
    store.commit = lambda self, made: die() if made.step == 4 else commit(self, made)
elif point == "while old ones go":
    def delete_and_die(self, *parts):
        delete(self, *parts)
        if parts[-1] == "checkpoint.json":
            die()
    Workspace.delete = delete_and_die
train(Workspace(uri), recipe_with("pretrain.max_steps=4", "pretrain.keep_checkpoints=1"), "killed")
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def whole(workspace):
    return train(workspace, recipe_with(*STEPS), "whole")


def made(step, **metrics):
    return Checkpoint(folder_of(step), step, 0, step, 1, metrics, {}, {})


@pytest.mark.parametrize(
    ("point", "left"),
    [("half a file", 2), ("before it counts", 2), ("while old ones go", 4)],
)
def test_killed_in_the_middle_of_a_checkpoint(workspace, whole, tmp_path, point, left):
    own = Workspace(tmp_path)
    for name in ("atlas", "scans", "patches", "splits.json"):
        os.symlink(workspace.path(name), own.path(name))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, own.uri, point], env=env, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    store = Checkpoints(own, "pretrain", "killed", config=recipe_with().pretrain)
    assert [checkpoint.step for checkpoint in store.committed()] == [left]
    resumed = train(own, recipe_with(*STEPS, "pretrain.keep_checkpoints=1"), "killed")
    assert resumed["losses"] == whole["losses"]
    same_model(whole, resumed, tolerance=0)
    same_memory(whole, resumed, tolerance=0)
    assert own.folders("pretrain", "killed", CHECKPOINTS) == [folder_of(4)], "nothing half is left"
    assert not list(Path(own.root).rglob(f"*{TEMPORARY}*"))


def test_on_s3_that_refuses_now_and_then(workspace, whole):
    """Resumed there from what was written there, to the same end."""
    server = ObjectStore()
    try:
        server.load(Path(workspace.root), "ws")
        remote = Workspace(server.uri("ws"))
        remote.delete("pretrain")
        server.fail("PUT", "ws/pretrain", times=2)
        first = train(remote, recipe_with(*STEPS), "remote", stop_at=2)
        assert first["step"] == 2
        server.fail("GET", "ws/pretrain", times=2)
        resumed = train(remote, recipe_with(*STEPS), "remote")
        assert all(fault.times == 0 for fault in server.faults), "the store did refuse"
        assert resumed["losses"] == whole["losses"]
        same_model(whole, resumed, tolerance=0)
        same_memory(whole, resumed, tolerance=0)
        keys = sorted(k for k in server.objects if "/remote/checkpoints/" in k and not k.endswith("/"))
        names = ["checkpoint.json", "memory-00000-of-00001.pt", "state.pt"]
        folder = "ws/pretrain/remote/checkpoints"
        assert keys == [f"{folder}/{folder_of(step)}/{name}" for step in (2, 4) for name in names]
    finally:
        server.close()


def test_the_newest_and_the_best_are_kept():
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0, 10: 5.0, 12: 4.0}
    all_ = [made(step, loss=loss, top1=loss / 10) for step, loss in losses.items()]

    def kept(*overrides):
        return [c.step for c in retained(all_, recipe_with(*overrides).pretrain)]

    assert kept("pretrain.keep_checkpoints=2") == [10, 12]
    assert kept("pretrain.keep_checkpoints=1", "pretrain.keep_best=1") == [8, 12], "of equals the newer"
    assert kept("pretrain.keep_checkpoints=1", "pretrain.keep_best=3") == [4, 6, 8, 12]
    top1 = ("pretrain.keep_best=2", "pretrain.best_by=top1")
    assert kept("pretrain.keep_checkpoints=1", *top1) == [10, 12]
    unrated = [*all_, made(14, loss=float("nan")), made(16)]
    config = recipe_with("pretrain.keep_checkpoints=1", "pretrain.keep_best=1").pretrain
    assert [c.step for c in retained(unrated, config)] == [8, 16]


def test_what_is_kept_is_on_disk_and_the_rest_is_not(workspace):
    keep = ("pretrain.keep_checkpoints=1", "pretrain.keep_best=1", "pretrain.checkpoint_every=1")
    recipe = recipe_with(*STEPS, *keep)
    losses = train(workspace, recipe, "kept")["losses"]
    best = min(range(4), key=lambda i: (losses[i], -i)) + 1
    assert workspace.folders("pretrain", "kept", CHECKPOINTS) == sorted({folder_of(best), folder_of(4)})


def test_what_a_disk_did_not_keep_is_passed_over(tmp_path):
    store = Checkpoints(Workspace(tmp_path), "run", config=recipe_with().pretrain)
    for step in (1, 2):
        store.write(step, "state.pt", {"step": torch.tensor(step)})
        checkpoint = made(step, loss=1.0)
        store.commit(Checkpoint(**{**vars(checkpoint), "files": {"state.pt": 0}}))
    assert store.newest().step == 2
    assert store.read(store.newest(), "state.pt")["step"] == 2
    with pytest.raises(StageError, match="missing"):
        store.read(store.newest(), "memory.pt")
    path = tmp_path / "run" / CHECKPOINTS / folder_of(2) / "state.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert store.newest().step == 1
    (tmp_path / "run" / CHECKPOINTS / folder_of(1) / CHECKPOINT_MANIFEST).unlink()
    assert store.newest() is None
    with pytest.raises(StageError, match=r"lost state\.pt"):
        store.commit(Checkpoint(**{**vars(made(3)), "files": {"state.pt": 0}}))


def test_what_is_not_finite_or_damaged_is_passed_over_and_replaced(workspace, whole, caplog):
    """A checkpoint of NaN, as version 0.1.0 wrote them, and one whose manifest was cut are newer than a good one."""
    train(workspace, recipe_with(*STEPS), "poisoned", stop_at=2)
    folder = Path(workspace.path("pretrain", "poisoned", CHECKPOINTS))
    for step in (3, 4, 5):
        shutil.copytree(folder / folder_of(2), folder / folder_of(step))
        place = folder / folder_of(step)
        values = json.loads((place / CHECKPOINT_MANIFEST).read_text())
        values |= {"name": folder_of(step), "step": step, "key of a newer version": 1}
        (place / CHECKPOINT_MANIFEST).write_text(json.dumps(values))
    state = torch.load(folder / folder_of(3) / "state.pt")
    next(iter(state["model"].values())).fill_(float("nan"))
    torch.save(state, folder / folder_of(3) / "state.pt")
    size = (folder / folder_of(3) / "state.pt").stat().st_size
    values = json.loads((folder / folder_of(3) / CHECKPOINT_MANIFEST).read_text())
    values["files"]["state.pt"] = size
    (folder / folder_of(3) / CHECKPOINT_MANIFEST).write_text(json.dumps(values))
    data = (folder / folder_of(4) / "state.pt").read_bytes()
    (folder / folder_of(4) / "state.pt").write_bytes(b"\0" * len(data))
    (folder / folder_of(5) / CHECKPOINT_MANIFEST).write_text('{"name": "st')
    resumed = train(workspace, recipe_with(*STEPS), "poisoned")
    assert resumed["losses"] == whole["losses"]
    same_model(whole, resumed, tolerance=0)
    for word in (
        "is not finite and skipped",
        "state.pt is damaged",
        "checkpoint.json is damaged and skipped",
    ):
        assert word in caplog.text
    assert workspace.folders("pretrain", "poisoned", CHECKPOINTS) == [folder_of(2), folder_of(4)]


def test_what_is_not_finite_is_never_committed(workspace):
    """Not even where the gradient was finite."""
    loop = Loop(workspace, recipe_with(*STEPS), "spoilt", rank=0, world=1, device=torch.device("cpu"))
    loop.step = 1
    with torch.no_grad():
        next(iter(loop.model.key.parameters())).fill_(float("inf"))
    with pytest.raises(StageError, match="diverged at step 1: the state of the model is not finite"):
        loop.save({})
    assert loop.checkpoints.committed() == []
