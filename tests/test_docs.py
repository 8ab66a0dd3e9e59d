"""What the documentation says is so: links lead somewhere, commands parse, snippets run, tables are current."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctplatform import shards
from ctplatform.cli import parser
from ctplatform.reference import reference

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            match = re.match(r"\s*\$ (?:\.venv/bin/)?drasclr (.+?)(?:\s{2,}#.*)?$", line)
            if match and not match.group(1).endswith("\\"):
                found.append(match.group(1))
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command):
    parser().parse_args(shlex.split(command))


def test_the_recipe_table_is_current():
    text = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert text == reference(), "run: python -m ctplatform.reference > docs/reference/recipes.md"


def test_the_shard_snippet_reads_a_patch(prepared, tmp_path, monkeypatch):
    workspace, cohort = prepared
    scan = cohort["scan_id"][0]
    (tmp_path / "patches").mkdir()
    shutil.copy(workspace.path(shards.FOLDER, f"{scan}.parquet"), tmp_path / "patches" / "SCAN.parquet")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "reference" / "shards.md").read_text(encoding="utf-8")
    scope: dict = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], scope)
    _, hu = shards.read_patches(workspace, scan, [7])
    np.testing.assert_array_equal(scope["patch"], hu[0])
