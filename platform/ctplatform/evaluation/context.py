"""What all trials of a sweep have in common, and where their results are committed.

A committed trial is `evaluation/<run>/trials/<cell>.parquet`: the predictions, and in the schema's metadata a record
with the fingerprint of all that the result depends on. A file with another fingerprint is stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ctplatform.config.digest import config_hash
from ctplatform.evaluation.cells import Cell, Chosen, Trial
from ctplatform.evaluation.initialisations import END_TO_END, FINETUNE
from ctplatform.evaluation.models import Training
from ctplatform.evaluation.problems import Problem
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

FORMAT_VERSION = 1  # raise it when a change makes older trials incomparable
METADATA_KEY = b"drasclr.trial"


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep have in common; sent to each worker once.

    Args:
        workspace: where trials are committed.
        run: the pretraining run that is evaluated.
        problems: task -> its problem.
        training: settings of end-to-end training.
        images: digest of the usable scans' contents and the atlas.
    """

    workspace: Workspace
    run: str
    problems: Mapping[str, Problem]
    training: Training
    images: str

    def searches(self, cell: Cell) -> bool:
        """Whether the cell's learning rate and weight decay are searched."""
        return (
            self.problems[cell.task].searchable
            and self.training.search.configurations > 0
            and cell.initialisation in END_TO_END
        )

    def fingerprint(self, cell: Cell) -> str:
        """Names everything that a cell's result depends on."""
        encoders = self.training.encoders
        own: list[Any] = [FORMAT_VERSION, asdict(cell), self.problems[cell.task].digest(cell.initialisation)]
        if cell.initialisation in END_TO_END:
            scratch, encoder = self.training.scratch.model_dump(), encoders.config.model_dump()
            own += [scratch, encoder, list(encoders.hu_window), self.images]
        if cell.initialisation == FINETUNE:
            own += [self.training.finetune.model_dump(), encoders.digest]
        if self.searches(cell):
            own.append(self.training.search.model_dump())
        return config_hash({"cell": own})

    def write_trial(self, trial: Trial) -> None:
        """Commit a trial: its file is written whole, and that it is there says that the cell is done."""
        record = {
            "fingerprint": self.fingerprint(trial.cell),
            "n_train": trial.n_train,
            "n_test": trial.n_test,
            "seconds": trial.seconds,
            "notes": list(trial.notes),
            "details": dict(trial.details),
        }
        table = pa.Table.from_pandas(trial.predictions, preserve_index=False)
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(record)})
        self.workspace.write_table(table, *layout.trial(self.run, trial.cell.name))

    def read_trial(self, cell: Cell) -> Trial | None:
        """The committed trial of a cell; None if there is none, or one of other data or settings."""
        path = layout.trial(self.run, cell.name)
        if not self.workspace.exists(*path):
            return None
        table = self.workspace.read_table(*path)
        record = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
        if record.get("fingerprint") != self.fingerprint(cell):
            return None
        return Trial(
            cell,
            record["n_train"],
            record["n_test"],
            record["seconds"],
            tuple(record["notes"]),
            table.to_pandas(),
            record.get("details", {}),
        )

    def write_chosen(self, cell: Cell, chosen: Chosen, attempts: list[dict[str, Any]]) -> None:
        """Commit what the search in a cell has chosen, with all configurations that it tried."""
        record = {"fingerprint": self.fingerprint(cell), "chosen": asdict(chosen), "attempts": attempts}
        self.workspace.write_bytes(json.dumps(record, indent=1).encode(), *layout.search(self.run, cell.name))

    def read_chosen(self, cell: Cell) -> Chosen | None:
        """What the search in a cell has chosen; None if there was none, or one with other data or settings."""
        path = layout.search(self.run, cell.name)
        if not self.workspace.exists(*path):
            return None
        record = self.workspace.read_json(*path)
        return Chosen(**record["chosen"]) if record["fingerprint"] == self.fingerprint(cell) else None
