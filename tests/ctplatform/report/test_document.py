"""A table is the same cells as comma-separated values."""

from __future__ import annotations

import io

import pandas as pd

from ctplatform.report.document import Table


def test_cells_with_commas_and_quotes_survive_csv():
    table = Table("caption", ("a", "b"), [("1,5", 'say "x"'), ("line\nbreak", "")])
    assert pd.read_csv(io.StringIO(table.csv()), dtype=str, keep_default_na=False).to_numpy().tolist() == [
        list(row) for row in table.rows
    ]
