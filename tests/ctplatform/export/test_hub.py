"""Weights on the Hub: what is copied, the licence, and a real upload by the Hub's client, loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ctplatform.errors import StageError
from ctplatform.export.hub import push, write_hub_folder
from drasclr import card, weights
from drasclr.encoder import Encoder
from tests.ctplatform.export.hub_server import TOKEN, running

FILES = {"weights.safetensors", "card.json", "README.md", "atlas.json", "lung_mask.nii.gz"}


@pytest.fixture
def run_folder(tmp_path, small_atlas) -> Path:
    """A run's folder: weights beside a log and settings that stay private."""
    folder = tmp_path / "run"
    weights.save(folder, Encoder(2).eval(), {"hu_window": [-1024, 240]}, atlas=small_atlas, template=b"mask")
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "config.json").write_text('{"path": "/data/Doe_Jane"}')
    (folder / "checkpoints").mkdir()
    return folder


def test_only_the_weights_files_are_copied_and_the_licence_is_stated(run_folder, tmp_path):
    scores = [
        {"task": "t", "metric": "r2", "value": 0.5, "low": 0.4, "high": 0.6, "labels": 9, "subjects": 8}
    ]
    before = json.loads((run_folder / "card.json").read_text())
    (run_folder / "README.md").write_text(card.readme(before, results=scores))
    write_hub_folder(str(run_folder), tmp_path / "hub", licence="cc-by-nc-4.0")
    assert {path.name for path in (tmp_path / "hub").iterdir()} == FILES
    loaded = weights.load(tmp_path / "hub")
    assert loaded.card == {**before, "license": "cc-by-nc-4.0"}
    text = (tmp_path / "hub" / "README.md").read_text()
    assert text == card.readme(loaded.card, results=scores)
    assert "unknown" not in text


def test_weights_without_a_licence_are_not_published(run_folder, tmp_path):
    with pytest.raises(StageError, match=r"states no licence.*--license ID"):
        write_hub_folder(str(run_folder), tmp_path / "hub")
    with pytest.raises(StageError, match="no identifier of a licence"):
        write_hub_folder(str(run_folder), tmp_path / "hub", licence="CC BY\nx")
    assert not (tmp_path / "hub").exists()


def test_damaged_weights_are_not_published(run_folder, tmp_path):
    with (run_folder / "lung_mask.nii.gz").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(StageError, match="damaged"):
        write_hub_folder(str(run_folder), tmp_path / "hub", licence="mit")


def test_a_name_without_an_owner_is_refused(run_folder):
    with pytest.raises(StageError, match="Give OWNER/NAME"):
        push(str(run_folder), "encoder", licence="mit")


def drasclr(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The client reads its settings when it is imported, so it gets an interpreter of its own."""
    command = [sys.executable, "-m", "ctplatform", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_push_and_load_again(run_folder, tmp_path):
    pytest.importorskip("huggingface_hub")
    with running(tmp_path / "cache") as hub:
        done = drasclr(hub.environment, "push", str(run_folder), "lung-lab/encoder", "--license", "mit")
        assert done.returncode == 0, done.stderr
        assert "/lung-lab/encoder/commit/" in done.stdout.splitlines()[0]
        assert set(hub.files) == FILES
        assert hub.large == {"weights.safetensors"}
        assert hub.visibilities == ["private"]
        assert len(hub.messages) == 1
        out = tmp_path / "copy"
        got = drasclr(
            hub.environment, "export", "hf://lung-lab/encoder", "--to", "huggingface", "-o", str(out)
        )
        assert got.returncode == 0, got.stderr
        assert (out / "weights.safetensors").read_bytes() == (run_folder / "weights.safetensors").read_bytes()
        assert weights.load(out).card["license"] == "mit"
        refused = drasclr(
            hub.environment | {"HF_TOKEN": "hf_wrong"},
            *("push", str(run_folder), "lung-lab/encoder", "--license", "mit"),
        )
        assert refused.returncode == 1
        assert "the Hub refuses lung-lab/encoder (401)" in refused.stderr
        assert TOKEN not in refused.stderr + done.stdout
