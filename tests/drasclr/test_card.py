"""Cards and weights from others: a ValueError that names the file, before memory is taken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

import drasclr
from drasclr import weights
from drasclr.card import FORMAT, check_finite, parsed_card
from drasclr.encoder import Encoder

GOOD = {"format": FORMAT, "encoder": {"experts": 1, "conditioning": "none", "norm": "batch"}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": []}, "encoder.experts"),
        ({"encoder": {"experts": True, "conditioning": "none", "norm": "batch"}}, "encoder.experts"),
        ({"encoder": {"experts": 10**9, "conditioning": "none", "norm": "batch"}}, "encoder.experts"),
        ({"encoder": {"experts": 1, "conditioning": ["none"], "norm": "batch"}}, "encoder.conditioning"),
        ({"encoder": {"experts": 1, "conditioning": "none", "norm": "layer"}}, "encoder.norm"),
        ({"atlas_hash": 5}, "atlas_hash"),
        ({"patch_size": "32"}, "patch_size"),
        ({"spacing_mm": float("nan")}, "spacing_mm"),
        ({"hu_window": [240, -1024]}, "hu_window"),
        ({"hu_window": 3}, "hu_window"),
    ],
)
def test_values_of_a_wrong_type_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        parsed_card(json.dumps(GOOD | change).encode(), name="card.json")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"3", b'"x"', b"\xff\xfe", b"{", b"[" * 100_000, b"1" * 5_000, b" " * 1_000_001]
)
def test_what_is_no_card_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"card\.json"):
        parsed_card(data, name="card.json")


def test_a_card_keeps_what_it_does_not_check():
    assert parsed_card(json.dumps(GOOD | {"provenance": {"run": "x"}}).encode(), name="c")["provenance"] == {
        "run": "x"
    }


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    weights.save(folder, Encoder(1, "none"), {})
    safetensors.torch.save_file(tensors, folder / weights.WEIGHTS)
    card = json.loads((folder / weights.CARD).read_text())
    card["files"][weights.WEIGHTS] = hashlib.sha256((folder / weights.WEIGHTS).read_bytes()).hexdigest()
    (folder / weights.CARD).write_text(json.dumps(card))
    return folder


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = Encoder(1, "none").state_dict()
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name] = torch.full_like(state[name], float("nan"))
    with pytest.raises(ValueError, match=f"not finite, in {name}"):
        drasclr.load(saved(tmp_path, state))
    check_finite({"count": torch.tensor(3)})


def test_weights_of_another_shape_or_kind_are_refused_by_their_header(tmp_path):
    state = Encoder(1, "none").state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 1 and tensor.is_floating_point())
    for wrong, message in (
        (torch.zeros(len(state[name]) + 1), f"{name} is"),
        (state[name].to(torch.int64), "of type I64"),
        (state[name].to(torch.int8), "of type I8"),
    ):
        with pytest.raises(ValueError, match=message):
            drasclr.load(saved(tmp_path, state | {name: wrong}))
    with pytest.raises(ValueError, match="unknown more"):
        drasclr.load(saved(tmp_path, state | {"more": torch.zeros(1)}))
    with pytest.raises(ValueError, match=f"no {name}"):
        drasclr.load(saved(tmp_path, {key: value for key, value in state.items() if key != name}))


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="hf://owner/name"):
        drasclr.load("runs/encoder")
