"""The README of a run's weights, with the scores of the frozen encoder on held-out subjects."""

from __future__ import annotations

from ctplatform.evaluation.summary import REFERENCE, headline_rows
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace


def write_model_card(workspace: Workspace, run: str) -> None:
    """Write the README again from the run's card and summary; without either, the README stays as it is.

    The scores are those of each task's main metric at the largest label fraction.
    """
    from drasclr.card import readme

    if not (workspace.exists(*layout.card(run)) and workspace.exists(*layout.summary(run))):
        return
    rows = headline_rows(workspace.read_table(*layout.summary(run)).to_pandas())
    rows = rows[rows["initialisation"] == REFERENCE].rename(
        columns={"n_train": "labels", "n_test": "subjects"}
    )
    text = readme(workspace.read_json(*layout.card(run)), results=rows.to_dict("records"))
    workspace.write_bytes(text.encode(), *layout.model_readme(run))
