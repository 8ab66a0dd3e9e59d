"""Every benchmark can be started: what it imports is there, and it says what it does."""

import importlib
import sys
from pathlib import Path

import pytest

NAMES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if "def main()" in path.read_text(encoding="utf-8") and path.stem not in ("ants_peer", "test_commands")
)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_tells_its_options(name, monkeypatch, capsys):
    module = importlib.import_module(f"tests.benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out
