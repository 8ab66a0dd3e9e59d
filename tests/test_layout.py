"""The tree's rules: the standard library's `platform` is never shadowed, and imports run one way."""

from __future__ import annotations

import ast
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parent.parent
STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_platform_is_no_package():
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_librarys_platform_imports_here():
    assert Path(platform.__file__).resolve().is_relative_to(STDLIB)


@pytest.mark.parametrize("arguments", [["-c"], ["-P", "-c"]])
def test_the_standard_librarys_platform_imports_from_the_repository_root(arguments):
    code = "import platform, ctplatform, drasclr; print(platform.__file__); print(platform.system())"
    env = {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *arguments, code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.splitlines()[0]).resolve().is_relative_to(STDLIB)


def test_method_never_imports_ray_or_the_platform():
    # pyarrow: weights in object stores.
    allowed = {"torch", "numpy", "safetensors", "drasclr", "monai", "huggingface_hub", "pyarrow"} | set(
        sys.stdlib_module_names
    )
    for path in sources("drasclr"):
        assert imported(path) <= allowed, path


def test_platform_never_imports_jobs():
    for path in sources("platform"):
        assert not imported(path) & {"jobs", "tests"}, path


def test_text_files_name_their_encoding():
    """Image readers may switch the process's locale to C, and with it what `read_text()` means."""
    for folder in ("platform", "drasclr", "jobs"):
        for path in sources(folder):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in ("read_text", "write_text"):
                    assert any(k.arg == "encoding" for k in node.keywords), f"{path}:{node.lineno}"


def test_help_imports_nothing_heavy():
    code = "import sys\ntry:\n import ctplatform.cli.main as c; c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch','ray','SimpleITK','pandas','numpy','monai','pydantic') if m in sys.modules])"
    env = {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_nothing_speaks_of_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if (
            path.suffix in {".py", ".md", ".toml", ".yaml", ".txt", ""}
            and path.is_file()
            and name != "LICENSE"
        ):
            text = path.read_text(encoding="utf-8")
            for part in ("/" + "work/", "py" + "pi.org", "/" + "root/"):
                assert part not in text, f"{name} holds {part}"


def test_the_long_test_files_that_start_first_exist():
    assert all((ROOT / "tests" / name).is_file() for name in LONGEST)
