"""The synthetic cohort of a workspace: one Ray task a subject, files below the workspace itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from ctplatform.compute.fan_out import fan_out
from ctplatform.compute.placement import ray_options
from ctplatform.config.cluster import PlacementConfig
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import PhantomConfig, VariationConfig
from ctplatform.storage import layout
from ctplatform.storage.layout import PHANTOM, PHANTOM_ROWS, PHANTOM_TABLE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def phantom_cohort(
    workspace: Workspace,
    config: PhantomConfig,
    *,
    placement: PlacementConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Generate the subjects that are missing in the workspace, and return the cohort table.

    Each subject is made in a temporary folder of its worker and copied to the workspace, so that no disk need be
    shared; its row is written last and marks it as complete.
    """
    import ray

    names = _names(config)
    existing = set(workspace.files(PHANTOM, PHANTOM_ROWS, suffix=".json"))
    missing = [index for index, name in enumerate(names) if name not in existing]
    make = ray.remote(num_cpus=1, **ray_options(placement or PlacementConfig()))(_make_subject)
    fan_out(
        lambda index: make.remote(workspace, index, config, names[index]),
        missing,
        on_progress=on_progress and (lambda done: on_progress(done, len(missing))),
    )
    table = _table(workspace, names)
    workspace.write_bytes(table.to_csv(index=False).encode(), PHANTOM, PHANTOM_TABLE)
    return table


def made_cohort(workspace: Workspace, config: PhantomConfig) -> pd.DataFrame | None:
    """The table that `phantom_cohort` returns, without Ray; None as long as a subject is missing."""
    names = _names(config)
    if not set(names) <= set(workspace.files(PHANTOM, PHANTOM_ROWS, suffix=".json")):
        return None
    return _table(workspace, names)


def _names(config: PhantomConfig) -> list[str]:
    # A cohort without variation keeps the names of the time before there was any.
    plain = config.variation == VariationConfig()
    version = config_hash(config.model_dump(mode="json", exclude={"variation"} if plain else None))
    return [layout.phantom_row(version, index)[-1] for index in range(config.subjects)]


def _table(workspace: Workspace, names: list[str]) -> pd.DataFrame:
    import pandas as pd

    from ctplatform.phantom.files import LABEL_MAPS

    rows = [workspace.read_json(PHANTOM, PHANTOM_ROWS, name) for name in names]
    for row in rows:
        for column in ("path", *(name for name in LABEL_MAPS if name in row)):
            row[column] = workspace.uri_of(PHANTOM, row[column])
    return pd.DataFrame(rows)


def _make_subject(workspace: Workspace, index: int, config: PhantomConfig, name: str) -> None:
    from ctplatform.phantom import generate_subject

    with tempfile.TemporaryDirectory() as folder:
        row = generate_subject(folder, index, config)
        target = workspace.path(PHANTOM)
        workspace.fs.create_dir(target, recursive=True)
        pafs.copy_files(
            folder, target, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=workspace.fs
        )
    workspace.write_bytes(json.dumps(row, default=_plain).encode(), PHANTOM, PHANTOM_ROWS, name)


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, for JSON."""
    return value.item() if hasattr(value, "item") else str(value)
