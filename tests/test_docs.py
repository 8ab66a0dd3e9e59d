"""What the documentation says is so: links lead somewhere, commands parse, snippets run, tables are current."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctplatform.cli.main import parser
from ctplatform.config.markdown import reference
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.compaction import compact
from ctplatform.storage.layout import PATCHES, SCANS
from ctplatform.storage.workspace import Workspace
from drasclr import weights
from drasclr.encoder import Encoder

ROOT = Path(__file__).resolve().parent.parent
#: Written by docs/build.py, which checks the links to them.
API = ROOT / "docs" / "reference" / "api"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if not page.is_relative_to(API)),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not (page.parent / target).resolve().is_relative_to(API):
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


def test_every_page_is_in_the_navigation():
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents}
    assert listed == pages | {"reference/api/index.md"}


def test_decisions_are_numbered_without_gaps_and_listed():
    pages = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs" / "decisions" / "index.md").read_text(encoding="utf-8")
    for page in pages:
        number = int(page.name[:4])
        assert page.read_text(encoding="utf-8").startswith(f"# {number}. ")
        assert re.search(rf"^\| {number} \| \[[^]]+\]\({page.name}\) \|", index, re.M), page.name


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_check_finds_what_is_missing_or_elsewhere(build, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a b.png").touch()
    good = '<img src="../a%20b.png"><img src="data:image/png;base64,AA"><a href="https://example.org">out</a>'
    (tmp_path / "sub" / "page.html").write_text(f"{good}<link rel='canonical' href='https://example.org/'>")
    assert build.problems(tmp_path) == []
    (tmp_path / "bad.html").write_text(
        '<img src="none.png"><script src="https://example.org/x.js"></script>'
        '<link rel="stylesheet" href="//example.org/x.css">'
    )
    assert build.problems(tmp_path) == [
        "bad.html: none.png is missing",
        "bad.html: loads https://example.org/x.js from another host",
        "bad.html: loads //example.org/x.css from another host",
    ]


def test_every_room_has_an_api_page(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "API", tmp_path / "api")
    build.write_api_pages()
    rooms = {path.parent.name for path in (ROOT / "platform" / "ctplatform").glob("*/__init__.py")}
    written = {path.stem for path in (tmp_path / "api").glob("*.md")}
    assert {f"ctplatform.{room}" for room in rooms} | {"drasclr.weights", "index"} <= written
    assert not any("__" in name for name in written)
    assert "::: drasclr.weights\n" in (tmp_path / "api" / "drasclr.weights.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "folder"),
    [("README.md", "runs/demo/pretrain/RUN"), ("docs/tutorial/first-run.md", "runs/demo/pretrain/<run>")],
)
def test_the_first_snippets_load_an_encoder(tmp_path, capsys, page, folder):
    weights.save(tmp_path / "run", Encoder(8, "experts"), {"provenance": "made for this test"})
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert folder in code
    scope: dict = {}
    exec(code.replace(folder, str(tmp_path / "run")), scope)
    assert scope["encoder"].card["provenance"] == "made for this test"
    if page == "README.md":
        assert scope["features"].shape == (2, 128)
    else:
        assert capsys.readouterr().out.strip() == "made for this test"


def test_the_recipe_table_is_current():
    text = (ROOT / "docs" / "reference" / "recipes.md").read_text(encoding="utf-8")
    assert text == reference(), "run: python -m ctplatform.config.markdown > docs/reference/recipes.md"


@pytest.mark.parametrize("reader", ["pyarrow", "pandas", "duckdb"])
def test_the_shard_snippets_read_a_patch(prepared, tmp_path, monkeypatch, reader):
    """Each as the page has it, in a workspace whose first usable scan is called SCAN there."""
    workspace, _ = prepared
    scan = sorted(ledger.read_ledger(workspace)["scan_id"])[0]
    shutil.copytree(workspace.path(SCANS), tmp_path / "scans")
    shutil.copytree(workspace.path(PATCHES), tmp_path / "patches")
    shutil.copy(tmp_path / "patches" / f"{scan}.parquet", tmp_path / "SCAN.parquet")
    if reader != "duckdb":
        shutil.move(tmp_path / "SCAN.parquet", tmp_path / "patches" / "SCAN.parquet")
    page = (ROOT / "docs" / "reference" / "shards.md").read_text(encoding="utf-8")
    (code,) = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.S) if f"{reader}" in code.splitlines()[0]
    ]
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code.replace("patches/SCAN", "SCAN") if reader == "duckdb" else code, scope)
    _, hu = shards.read_patches(workspace, scan, [7])
    np.testing.assert_array_equal(scope["patch"], hu[0])
    assert scope["patch"].min() >= -1024
    if reader == "duckdb":
        assert len(scope["rows"]) == len(ledger.usable(ledger.read_ledger(workspace), use_flagged=True))
        texts = dict(scope["provenance"])
        assert {"drasclr.content_hash", "drasclr.affine", "drasclr.atlas_hash", "drasclr.software"} <= set(
            texts
        )


def test_duckdb_sees_the_rows_that_count(tmp_path):
    """The page's query and our reader agree when rows were replaced, renewed and merged."""
    duckdb = pytest.importorskip("duckdb")
    workspace = Workspace(tmp_path)
    for scan, version, state in (
        *(("a", 1, "accepted"), ("a", 2, "flagged"), ("b", 1, "accepted")),
        *(("b", 2, ledger.STARTED), ("c", 1, "failed"), ("d", 3, "accepted"), ("d", 2, "flagged")),
    ):
        ledger.write_row(workspace, {"scan_id": scan, "version": version, "state": state})
    page = (ROOT / "docs" / "reference" / "shards.md").read_text(encoding="utf-8")
    query = re.search(r"SELECT \* FROM read_parquet\('scans.*?= 1", page, re.S).group(0)
    query = query.replace("scans/*", f"{tmp_path}/scans/*")
    for _ in range(2):
        rows = duckdb.sql(f"SELECT scan_id, version, state FROM ({query}) ORDER BY scan_id").fetchall()
        ours = ledger.read_ledger(workspace, columns=["scan_id", "version", "state"], started=True)
        assert rows == list(ours.itertuples(index=False, name=None))
        assert rows == [("a", 2, "flagged"), ("b", 2, "started"), ("c", 1, "failed"), ("d", 3, "accepted")]
        compact(workspace)
