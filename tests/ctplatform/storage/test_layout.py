"""Every name of a workspace is in `storage.layout` alone; paths are the documented ones."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctplatform.storage import layout
from tests.conftest import ROOT

SOURCES = sorted(
    path
    for folder in ("platform/ctplatform", "jobs")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(layout.__file__)
)
NAMES = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)}
FILES = {name for name in NAMES if "." in name[1:]}
FOLDERS = {name for name in NAMES if "." not in name}
SUFFIXES = (layout.PARQUET, layout.JSON, layout.PNG, layout.CSV, layout.SVG)
METHODS = {
    "path", "uri_of", "display", "exists", "infos", "files", "folders", "read_bytes", "write_bytes", "write_stream",
    "size", "local_file", "read_json", "write_json", "read_table", "write_table", "delete",
}  # fmt: skip
#: Names outside a workspace: the scan table that `drasclr cohort` and `python -m ctplatform.phantom` write.
ELSEWHERE = {
    ("cli/main.py", layout.PHANTOM_TABLE),
    ("phantom/files.py", layout.PHANTOM_TABLE),
    ("phantom/__main__.py", f"/{layout.PHANTOM_TABLE}"),
}


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of what names a file or folder of a workspace: whole names, composed file names, path arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield node.lineno, str(node.value)
        elif isinstance(node, ast.JoinedStr) and node.values:
            last = node.values[-1]
            text = str(last.value) if isinstance(last, ast.Constant) else ""
            if len(node.values) > 1 and text.endswith(SUFFIXES) and " " not in text:
                yield node.lineno, text
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS
        ):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and argument.value in FOLDERS:
                    yield node.lineno, str(argument.value)
        elif isinstance(node, ast.Tuple) and len(node.elts) > 1:
            first, second = node.elts[:2]
            if isinstance(first, ast.Constant) and first.value in FOLDERS and isinstance(second, ast.Name):
                yield node.lineno, str(first.value)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_has_a_name_of_its_own(path):
    short = "/".join(path.parts[-2:])
    found = [
        f"{path.relative_to(ROOT)}:{line} {text!r}"
        for line, text in literals(ast.parse(path.read_text(encoding="utf-8")))
        if (short, text) not in ELSEWHERE
    ]
    assert not found, f"use ctplatform.storage.layout: {found}"


@pytest.mark.parametrize(
    "code",
    [
        'workspace.exists("evaluation", run)',
        'name = "summary.parquet"',
        'parts = ("pretrain", run)',
        'name = f"{scan}.parquet"',
        'workspace.write_bytes(b"", PATCHES, f"{scan}.png")',
    ],
)
def test_such_a_name_is_found(code):
    assert list(literals(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ['"patches"', 'columns = ("patches", "scans")', 'suffix=".parquet"', 'f"see {x}"']
)
def test_other_words_are_none(code):
    assert not list(literals(ast.parse(code.replace("suffix=", "suffix = "))))


def test_paths_are_those_of_the_first_version():
    """A workspace outlives the code that made it."""
    assert layout.ledger_row("s", 2) == ("scans", "s.2.parquet")
    assert layout.merged_ledger_rows("abc") == ("scans", "rows-abc.parquet")
    assert layout.overlay("s") == ("scans", "qc", "s.png")
    assert layout.preparation_settings("0a") == ("scans", "settings", "0a.json")
    assert layout.shard("s") == ("patches", "s.parquet")
    assert layout.stage_record("atlas") == ("stages", "atlas.json")
    assert layout.stage_record("embed", "r") == ("stages", "r", "embed.json")
    assert layout.lung_volume("s", "k") == ("labelled", "cubes", "s.k.parquet")
    assert layout.label_map("lobes", "s", "k") == ("labelled", "lobes", "s.k.parquet")
    assert layout.window_classes("emphysema", 16, "s", "k") == (
        "labelled",
        "emphysema",
        "cells-16",
        "s.k.parquet",
    )
    assert layout.window_features("f", "s", "k") == ("labelled", "features", "f", "s.k.parquet")
    assert layout.weights("r") == ("pretrain", "r", "weights.safetensors")
    assert layout.card("r") == ("pretrain", "r", "card.json")
    assert layout.training_config("r") == ("pretrain", "r", "config.json")
    assert layout.training_metrics("r") == ("pretrain", "r", "metrics.jsonl")
    assert layout.training_progress("r") == ("pretrain", "r", "progress.json")
    assert layout.phantom_row("ab", 3) == ("phantom", "rows", "ab-00003.json")
    assert layout.phantom_table() == ("phantom", "cohort.csv")
    assert layout.probe("r") == ("pretrain", "r", "probe.json")
    assert layout.checkpoint_folder(12) == "step-000000012"
    assert layout.patient_vectors("r", "drasclr") == ("embeddings", "r", "patients-drasclr.parquet")
    assert layout.scan_vectors("r", "drasclr", "g") == ("embeddings", "r", "scans", "drasclr-g.parquet")
    assert layout.patch_vectors("r", "drasclr", "g") == ("embeddings", "r", "patches", "drasclr-g.parquet")
    assert layout.trial("r", "c") == ("evaluation", "r", "trials", "c.parquet")
    assert layout.search("r", "c") == ("evaluation", "r", "searches", "c.json")
    assert (
        layout.evaluation_table("r", "summary")
        == layout.summary("r")
        == ("evaluation", "r", "summary.parquet")
    )
    assert layout.prediction_map("r", "lobes", "drasclr") == (
        "evaluation",
        "r",
        "maps",
        "lobes-drasclr.parquet",
    )
    assert layout.models("r") == ("evaluation", "r", "models")
    assert layout.model_file("r", "lobes", "drasclr", "card.json") == (
        *layout.models("r"),
        "lobes-drasclr",
        "card.json",
    )
    assert layout.initial_weights("r", "card.json") == ("pretrain", "r", "initial", "card.json")
    assert layout.notes("r") == ("evaluation", "r", "notes.json")
    assert layout.report("r") == ("evaluation", "r", "report.html")
    assert layout.figures("r") == ("evaluation", "r", "figures")
    assert layout.figure("r", "f") == ("evaluation", "r", "figures", "f.svg")
    assert layout.figure_table("r", "f") == ("evaluation", "r", "figures", "f.csv")


def test_every_function_is_described():
    functions = [f for _, f in inspect.getmembers(layout, inspect.isfunction)]
    assert functions
    assert all(inspect.getdoc(function) for function in functions)
