"""The real CTs and the published atlas that the data plane's benchmarks run on: found, never copied."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from ctplatform.cohort.discovery import discover
from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.preparation.atlas import atlas
from ctplatform.preparation.scan import prepare_scan
from ctplatform.storage.workspace import Workspace
from drasclr.atlas import Atlas

CT, ATLAS = "DRASCLR_REAL_CT", "DRASCLR_ATLAS"


def folders() -> tuple[Path, Path]:
    """Folder of real CTs and folder of the published atlas; ends the program where one is not known."""
    found = []
    for name, what in ((CT, "a folder of chest CTs"), (ATLAS, "the published atlas's folder")):
        folder = os.environ.get(name)
        if not folder or not Path(folder).is_dir():
            sys.exit(f"Set {name} to {what}.")
        found.append(Path(folder))
    return found[0], found[1]


def recipe_of(atlas_folder: Path) -> Recipe:
    """The recipe of a cohort of one's own, with a given atlas."""
    return load_recipe("demo", (f"atlas.source={atlas_folder}",))


def items(ct: Path) -> list[dict[str, str]]:
    """Rows of work, as `prepare_scan` takes them."""
    columns = ("scan_id", "subject_id", "path", "series_uid")
    rows = discover(ct).table.fillna("")[list(columns)].to_dict("records")
    return [{**row, "fingerprint": ""} for row in rows]


def prepared(folder: Path) -> tuple[Workspace, Atlas, list[dict[str, Any]]]:
    """A workspace with the real CTs prepared in this process, its atlas, and the rows of the usable ones."""
    ct, atlas_folder = folders()
    recipe, workspace = recipe_of(atlas_folder), Workspace(folder)
    atlas(workspace, None, recipe)
    rows = [prepare_scan(workspace, item, recipe.prepare, config_hash="benchmark") for item in items(ct)]
    return workspace, read_atlas(workspace), [r for r in rows if r["state"] in ("accepted", "flagged")]


def machine() -> str:
    """What this ran on, in a few words."""
    with open("/proc/cpuinfo", encoding="utf-8") as stream:
        names = {line.partition(":")[2].strip() for line in stream if line.startswith("model name")}
    return f"{platform.machine()}, {os.cpu_count()} cores ({', '.join(sorted(names)) or 'unknown'})"
