"""The README of weights gets the scores of the frozen encoder, and nothing is made up where there are none."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from ctplatform.report.model_card import write_model_card
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace
from drasclr import weights
from drasclr.encoder import Encoder


def test_scores_of_the_frozen_encoder_at_all_labels(tmp_path):
    workspace = Workspace(tmp_path)
    for name, data in weights.files(Encoder(1), {"license": "mit"}).items():
        workspace.write_bytes(data, layout.PRETRAIN, "r", name)
    before = workspace.read_bytes(*layout.model_readme("r"))
    write_model_card(workspace, "r")
    assert workspace.read_bytes(*layout.model_readme("r")) == before, "there is no summary yet"
    common = {
        "metric": "spearman",
        "low": 0.1,
        "high": 0.9,
        "n_train": 20,
        "n_test": 9,
        "task": "emphysema_extent",
    }
    rows = [
        {**common, "initialisation": "drasclr", "fraction": 1.0, "value": 0.625},
        {**common, "initialisation": "drasclr", "fraction": 0.1, "value": 0.25, "n_train": 2},
        {**common, "initialisation": "drasclr", "fraction": 1.0, "value": 0.875, "metric": "r2"},
        {**common, "initialisation": "random", "fraction": 1.0, "value": 0.375},
    ]
    workspace.write_table(pa.Table.from_pandas(pd.DataFrame(rows)), *layout.summary("r"))
    write_model_card(workspace, "r")
    text = workspace.read_bytes(*layout.model_readme("r")).decode()
    assert "| emphysema_extent | spearman | 0.625 | 0.100 to 0.900 | 20 | 9 |" in text
    assert not any(other in text for other in ("0.250", "0.875", "0.375"))
    assert "license: mit" in text
