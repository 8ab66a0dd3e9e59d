"""`drasclr predict`: a kept model applied to the scans of a workspace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.errors import PlatformError
from ctplatform.inference.kept_model import KeptModel, read_model

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet", ".json")


def predict(
    model: str, scans: Sequence[str] = (), *, workspace: str, output: str | None = None, as_json: bool = False
) -> None:
    """Predict, and write or print a row a scan.

    Args:
        model: folder or URI of a kept model.
        scans: ids of the workspace; all that are embedded by default.
        workspace: in which they are.
        output: file to write, .csv, .parquet or .json; None prints.
        as_json: print JSON.

    Raises:
        PlatformError: the model does not fit, a scan has no vector, or the output's format is not known.
    """
    from ctplatform.inference.predict import predict_workspace
    from ctplatform.storage.workspace import Workspace

    if output and Path(output).suffix not in FORMATS:
        raise PlatformError(
            f"{output}: not a format that is written", f"Use {', '.join(FORMATS)}", code="usage"
        )
    kept = read_model(model)
    table = predict_workspace(Workspace(workspace), kept, scan_ids=scans)
    if output:
        _write(table, output)
        print(f"{len(table):,} scans -> {output}")
    elif as_json:
        print(json.dumps(_records(table), indent=1))
    else:
        print("\n".join(lines(kept, table)))


def lines(model: KeptModel, table: pd.DataFrame) -> list[str]:
    """What the model is, then a line a scan."""
    task, selection = model.card["task"], model.card["selection"]
    unit = f", {task['unit']}" if task["unit"] and task["unit"] not in task["title"] else ""
    head = [f"{task['title']}{unit}; trained on {model.card['trained_on']['subjects']} subjects"]
    head += [
        f"held out: {s['metric']} {s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}], n = {s['n_test']}"
        for s in model.card["scores"]
        if s["metric"] == selection["metric"] and None not in (s["value"], s["low"], s["high"])
    ]
    shown = table.drop(columns="prediction") if "risk" in table else table
    return [*head, "", shown.to_string(index=False, float_format=lambda value: f"{value:.3f}")]


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows without NaN, which JSON does not have."""
    records: list[dict[str, object]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return records


def _write(table: pd.DataFrame, output: str) -> None:
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        path.write_text(json.dumps(_records(table), indent=1) + "\n", encoding="utf-8")
