"""The network of a trial: its files are read as they were written, and its encoder is a weights folder."""

import numpy as np

import drasclr
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.trained_network import (
    TrainedNetwork,
    all_labels,
    leaves_network,
    network_features,
    network_files,
    read_network,
    write_network,
)
from ctplatform.storage.workspace import Workspace


def test_one_trial_of_a_task_leaves_its_network():
    assert leaves_network(all_labels("mine"))
    assert not leaves_network(Cell("mine", "finetune", 0.5, 0))
    assert not leaves_network(Cell("mine", "finetune", 1.0, 1))
    assert not leaves_network(Cell("mine", "scratch", 1.0, 0))


def test_a_network_is_read_as_it_was_written(tmp_path):
    from drasclr.encoder import Encoder

    encoder = Encoder(1).eval()
    encoder.card = {"hu_window": [-1024, 240]}
    tensors = {"weights_P": np.arange(3.0), "locations_L": np.array([2, 0])}
    card = {"kind": "regression", "valid": (0.0, np.inf), "steps": 4}
    network = TrainedNetwork(tensors, network_files(encoder, encoder, task="mine"), card)
    workspace, cell = Workspace(tmp_path), all_labels("mine")
    assert read_network(workspace, "run", cell, fit="a") is None
    write_network(workspace, "run", cell, network, fit="a")
    assert read_network(workspace, "run", cell, fit="b") is None
    found = read_network(workspace, "run", cell, fit="a")
    assert found.card == card
    assert found.encoder == network.encoder
    assert {name: array.tolist() for name, array in found.tensors.items()} == {
        "weights_P": [0, 1, 2],
        "locations_L": [2, 0],
    }


def test_the_encoder_s_folder_states_its_own_weights(tmp_path):
    from drasclr.encoder import Encoder

    encoder = Encoder(1).eval()
    encoder.card = {"hu_window": [-1024, 240], "pooling": "mean_std", "provenance": {"scans": 3}}
    files = network_files(encoder, encoder, task="mine")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    card = drasclr.load(tmp_path).card
    assert card["provenance"] == {"scans": 3, "fine_tuned_on": "mine"}
    assert card["pooling"] == "mean"
    source = {"encoder": "drasclr", "weights_sha256": "a", "statistics_sha256": "b"}
    features = network_features(source, files, pooling="none")
    assert features["weights_sha256"] == card["files"]["weights.safetensors"]
    assert features["started_from_sha256"] == "a"
    assert "statistics_sha256" not in features
