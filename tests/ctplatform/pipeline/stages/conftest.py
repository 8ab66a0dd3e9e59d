"""A workspace with the ledger, shards and split of seven scans, and a file for each output of the later stages."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctplatform.pipeline.state import WorkspaceState
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.training_world import recipe_with, training_workspace

OTHER = "another-run"


class StageWorld:
    """The workspace, the name of the recipe's run, and fresh views of both."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.recipe = workspace, recipe_with()
        self.run = self.state().run

    def state(self) -> WorkspaceState:
        empty = pd.DataFrame(columns=["scan_id", "subject_id", "path"])
        return WorkspaceState(self.workspace, empty, self.recipe)

    def files(self) -> set[str]:
        root = Path(self.workspace.root)
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    def removed_by(self, stage) -> set[str]:
        before = self.files()
        stage.discard(self.state())
        return before - self.files()


@pytest.fixture
def world(tmp_path) -> StageWorld:
    workspace = training_workspace(tmp_path / "ws")
    found = StageWorld(workspace)
    assert found.run.startswith("demo-")
    workspace.write_json({"hash": "0123456789abcdef"}, layout.ATLAS, layout.ATLAS_STAGE_FILE)
    for run in (found.run, OTHER):
        outputs = (
            layout.card(run),
            (layout.PRETRAIN, run, layout.WEIGHTS_FILE),
            *(layout.patient_vectors(run, name) for name in found.recipe.embed.encoders),
            layout.summary(run),
            layout.report(run),
        )
        for parts in outputs:
            workspace.write_bytes("/".join(parts).encode(), *parts)
    return found
