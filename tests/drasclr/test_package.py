"""The package as a user meets it: names, help, version, types, and `python -m drasclr`."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import drasclr

ROOT = Path(drasclr.__file__).parent.parent
PUBLIC = {"Atlas", "DrasCLR", "Encoder", "load"}


def python(*arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(path / "platform")])}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def declared() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_dir_and_help_show_the_public_names():
    assert set(drasclr.__all__) == PUBLIC
    assert set(dir(drasclr)) >= {*PUBLIC, "__version__", "__doc__"}
    for name in PUBLIC:
        assert getattr(drasclr, name).__name__ == name
    shown = python("-c", "import drasclr; help(drasclr)")
    assert shown.returncode == 0, shown.stderr
    for text in ("class Atlas(", "class DrasCLR(", "class Encoder(", "load(path", "VERSION"):
        assert text in shown.stdout
    assert not hasattr(drasclr, "nothing_of_this_name")


def test_names_and_version_do_not_import_torch():
    code = "import sys, drasclr; print(dir(drasclr), drasclr.__version__); assert 'torch' not in sys.modules"
    result = python("-c", code)
    assert result.returncode == 0, result.stderr


def test_the_version_is_that_of_the_project_installed_or_not():
    assert drasclr.__version__ == declared()
    # -S leaves out installed packages: only the source tree is left.
    alone = python("-S", "-c", "import drasclr; print(drasclr.__version__)")
    assert alone.stdout.strip() == declared(), alone.stderr


def test_the_module_runs_the_command_line():
    result = python("-m", "drasclr", "--version")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"drasclr {declared()}"
    wrong = python("-m", "drasclr", "no-such-command")
    assert wrong.returncode == 2
    assert "no-such-command" in wrong.stderr


def test_without_the_platform_the_module_says_what_is_missing(tmp_path):
    shutil.copytree(ROOT / "drasclr", tmp_path / "drasclr", ignore=shutil.ignore_patterns("__pycache__"))
    result = python("-S", "-m", "drasclr", "--help", path=tmp_path)
    assert result.returncode == 1
    assert "package ctplatform" in result.stderr
    assert "Traceback" not in result.stderr


def test_annotations_are_published():
    assert (ROOT / "drasclr" / "py.typed").is_file()
