"""The sentence on saved labels follows the table; searched configurations are counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    savings,
)
from tests.ctplatform.report.workspace import RUN, copied, replaced


def test_the_report_says_how_many_labels_are_saved(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, f"evaluation/{RUN}")
    table = (
        workspace.read_table("evaluation", RUN, "savings.parquet").to_pandas().query("task == 'emphysema'")
    )
    row = table.iloc[0].to_dict() | {"metric": "auroc", "target": 0.8, "target_low": 0.7, "target_high": 0.9}
    row |= {"chance": 0.5, "n_baseline": 200, "n_least": 2, "high": 40.0, "low": 11.0}
    rows = [
        row | {"initialisation": "drasclr", "labels": 20.0},
        row | {"initialisation": "finetune", "labels": np.inf, "high": np.inf},
    ]
    replaced(workspace, pd.DataFrame(rows), "evaluation", RUN, "savings.parquet")
    ((_, text),) = savings.sentences(read_inputs(workspace, recipe, run=RUN), ["emphysema"])
    assert "from scratch on all 200 labels, the network reaches AUROC 0.80 (0.70 to 0.90)" in text
    assert "DrasCLR needs 20 for that, 10% of them (95% interval 11 to 40)" in text
    assert "DrasCLR, fine-tuned does not reach that" in text
    assert "chance" not in text
    replaced(workspace, pd.DataFrame([rows[0] | {"target_low": 0.4}]), "evaluation", RUN, "savings.parquet")
    ((_, text),) = savings.sentences(read_inputs(workspace, recipe, run=RUN), ["emphysema"])
    assert "not distinguishable from chance (0.50)" in text


def test_what_was_searched_is_counted(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    (row,) = savings.search_table(inputs).rows
    assert row[1:6] == ("From scratch", "100%", "3", "18", "12")
    assert "1.5 min" in row[-1]


def test_ends_of_an_interval_that_say_the_same_are_said_once():
    assert savings.label_interval(np.inf, np.inf, 8) == "not reached"
    assert savings.label_interval(5, np.inf, 8) == "at most 8 to not reached"
    assert savings.label_interval(12.2, 20, 8) == "13 to 20"
