"""Vectors of a group of scans are those of each scan alone, and what becomes of them for a patient."""

from __future__ import annotations

import numpy as np

from ctplatform.inference.embed import embed
from ctplatform.inference.embedder import Embedder
from ctplatform.inference.encoders import load_encoder
from ctplatform.inference.patient_vectors import read_statistics
from ctplatform.inference.pooling import LocationStatistics, pool
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
    two = {"embed": small_recipe.embed.model_copy(update={"num_workers": 2})}
    summary = embed(workspace, small_recipe.model_copy(update=two), run=run)
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

    standardised = small_recipe.model_copy(
        update={"embed": small_recipe.embed.model_copy(update={"pooling": "standardised_spread"})}
    )
    assert embed(workspace, standardised, run=run).done == 0  # patches are not encoded again
    patients = (
        workspace.read_table("embeddings", run, "patients-drasclr.parquet").to_pandas().set_index("scan_id")
    )
    trained = list(training_rows(workspace, small_recipe)["scan_id"])
    statistics = LocationStatistics.of(*embedder.encode(encoder, trained))
    stored = read_statistics(workspace, run)
    np.testing.assert_allclose(stored.mean_ND, statistics.mean_ND, atol=2e-5)
    np.testing.assert_allclose(stored.spread_ND, statistics.spread_ND, atol=2e-5)
    np.testing.assert_allclose(
        np.stack(patients.loc[scans, "vector"]),
        pool(together, inside, "standardised_spread", stored),
        atol=2e-2,
    )
    means = np.stack(patients.loc[trained, "vector"])[:, :128]
    np.testing.assert_allclose(means.mean(0), 0, atol=2e-2)

    scaled = small_recipe.model_copy(
        update={"embed": small_recipe.embed.model_copy(update={"features": "multiscale"})}
    )
    wide, _ = Embedder(workspace, scaled, run).encode(encoder, scans)
    assert wide.shape == (3, embedder.atlas.num_locations, 128 + 496)
    np.testing.assert_allclose(wide[..., :128], together, atol=2e-5)
