"""Vectors of a group of scans are those of each scan alone."""

from __future__ import annotations

import numpy as np

from ctplatform.inference.embed import Embedder, embed
from ctplatform.inference.encoders import load_encoder
from ctplatform.inference.encoding import pool
from ctplatform.training.runs import training_rows
from tests.ctplatform.training_world import run_loop


def test_embeddings_of_a_batch_are_those_of_each_scan(workspace, small_recipe, ray_local):
    run = "test"
    run_loop(workspace, small_recipe)
    embedder = Embedder(workspace, small_recipe, run)
    encoder = load_encoder(workspace, run, hu_window=(-1024, 240)).eval()
    scans = list(training_rows(workspace, small_recipe)["scan_id"])[:3]
    together, inside = embedder.encode(encoder, scans)
    for index, scan in enumerate(scans):
        alone, _ = embedder.encode(encoder, [scan])
        np.testing.assert_allclose(together[index], alone[0], atol=2e-5)
    assert together.shape == (3, embedder.atlas.num_locations, 128)
    assert np.isfinite(together).all()
    assert together.std(axis=0).max() > 0
    summary = embed(workspace, small_recipe, run=run)
    assert summary.done > 0
    assert embed(workspace, small_recipe, run=run).done == 0
    patients = (
        workspace.read_table("embeddings", run, "patients-drasclr.parquet").to_pandas().set_index("scan_id")
    )
    np.testing.assert_allclose(
        np.stack(patients.loc[scans, "vector"]), pool(together, inside, "mean"), atol=2e-5
    )
    random = workspace.read_table("embeddings", run, "patients-random.parquet")
    assert random.num_rows == len(patients) == summary.scans
