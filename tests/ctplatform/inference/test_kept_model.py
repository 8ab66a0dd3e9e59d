"""Model folders: written equals read, what is damaged or does not fit is refused, intervals are the card's."""

import json

import numpy as np
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.kept_model import KeptModel, check_fits, read_model
from ctplatform.tasks.fitted_head import FittedHead

FEATURES = {
    "encoder": "drasclr",
    "weights_sha256": "a" * 64,
    "atlas_hash": "b" * 64,
    "hu_window": [-1024.0, 240.0],
}


def model(**card) -> KeptModel:
    head = FittedHead("regression", np.array([1.0, -2.0]), 0.5, valid=(0.0, np.inf))
    return KeptModel(head, {"task": {"name": "mine"}, "features": {**FEATURES, "width": 2}, **card})


def write(folder, kept: KeptModel):
    folder.mkdir(exist_ok=True)
    for name, data in kept.files().items():
        (folder / name).write_bytes(data)
    return folder


def test_written_equals_read(tmp_path):
    kept = model(calibration={"half_width": 1.0})
    read = read_model(write(tmp_path / "model", kept))
    x_NP = np.array([[3.0, 1.0], [0.0, 4.0]])
    np.testing.assert_array_equal(read.head.predict(x_NP), [1.5, 0.0])
    np.testing.assert_array_equal(read.intervals(np.array([1.5, 0.0])), [[0.5, 2.5], [0.0, 1.0]])
    assert read.features == kept.features
    assert read.card["task"] == {"name": "mine", "kind": "regression", "valid": [0.0, None]}


def test_bins_give_the_interval_of_a_probability():
    bins = [
        {"upper": 0.4, "observed": 0.1, "low": 0.0, "high": 0.3, "n": 9},
        {"upper": 1.0, "observed": 0.8, "low": 0.5, "high": 0.9, "n": 9},
    ]
    ends = model(calibration={"bins": bins}).intervals(np.array([0.0, 0.4, 0.41, 1.0]))
    assert ends.tolist() == [[0.0, 0.3], [0.0, 0.3], [0.5, 0.9], [0.5, 0.9]]
    assert np.isnan(model(calibration=None).intervals(np.zeros(3))).all()


def test_damaged_and_other_folders_are_refused(tmp_path):
    with pytest.raises(StageError, match="no model folder"):
        read_model(tmp_path)
    folder = write(tmp_path / "model", model())
    content = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(StageError, match="not the one that"):
        read_model(folder)
    (folder / "head.safetensors").write_bytes(content)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"format": "other"}))
    with pytest.raises(StageError, match="its format is 'other'"):
        read_model(folder)


def test_everything_that_does_not_fit_is_named():
    check_fits(model(), {**FEATURES, "width": 2})
    check_fits(model(), {})
    with pytest.raises(StageError) as error:
        check_fits(model(), {**FEATURES, "atlas_hash": "c" * 64, "hu_window": [-1000.0, 400.0], "width": 3})
    text = str(error.value)
    assert f"atlas {'b' * 12}, here {'c' * 12}" in text
    assert "HU window [-1024.0, 240.0], here [-1000.0, 400.0]" in text
    assert "number of features 2, here 3" in text
    assert "weights" not in text.split("Use a model")[0]
