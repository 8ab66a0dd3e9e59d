"""Groups of scans in a worker: what cannot be read is left out, and the control comes from where it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import ray

from ctplatform.dataset import ledger
from ctplatform.dataset.splits import read_split
from ctplatform.inference.embedder import Embedder
from ctplatform.inference.encoders import random_encoder
from ctplatform.storage.layout import PATCHES, scan_vectors, shard
from ctplatform.training.runs import training_rows


def test_a_damaged_shard_leaves_its_scan_out_and_is_tried_again(workspace, small_recipe, ray_local):
    patches = Path(workspace.path(PATCHES))
    shared = patches.resolve()
    patches.unlink()
    shutil.copytree(shared, patches)
    run = "damaged"
    embedder = Embedder(workspace, small_recipe, run)
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
    # The random encoder is calibrated on training scans, without which there is none.
    held_out = rows["subject_id"].isin(read_split(workspace).test)
    scans = pd.concat([rows[~held_out].head(1), rows[held_out].head(1), rows[~held_out].tail(1)])
    scans = scans[["scan_id", "subject_id", "content_hash"]].reset_index(drop=True)
    whole = {"encoder": "random", "group": "whole", "scans": scans.to_json(orient="records")}
    good = workspace.read_bytes(*shard(scans["scan_id"][1]))
    workspace.write_bytes(good[: len(good) // 2], *shard(scans["scan_id"][1]))
    row = embedder(whole)
    assert list(json.loads(row["left_out"])) == [scans["scan_id"][1]]
    assert row["written"] not in ("", "whole"), "the whole group is not marked as finished"
    vectors = workspace.read_table(*scan_vectors(run, "random", row["written"]))
    assert vectors["scan_id"].to_pylist() == [scans["scan_id"][0], scans["scan_id"][2]]
    alone = {**whole, "scans": scans.iloc[[1]].to_json(orient="records")}
    assert embedder(alone)["written"] == ""
    workspace.write_bytes(good, *shard(scans["scan_id"][1]))
    assert embedder(whole)["written"] == "whole"


def test_a_control_that_was_made_elsewhere_gives_the_same_vectors(workspace, small_recipe, ray_local):
    rows = training_rows(workspace, small_recipe)[["scan_id", "subject_id", "content_hash"]].head(2)
    given = ray.remote(random_encoder).remote(workspace, small_recipe)
    for run, control in {"own": None, "given": given}.items():
        item = {"encoder": "random", "group": "two", "scans": rows.to_json(orient="records")}
        assert Embedder(workspace, small_recipe, run, control)(item)["written"] == "two"
    own, other = (
        np.stack(workspace.read_table(*scan_vectors(run, "random", "two")).to_pandas()["vector"])
        for run in ("own", "given")
    )
    np.testing.assert_array_equal(own, other)
