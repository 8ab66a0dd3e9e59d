"""Every room's public names resolve, hide no submodule, and cost nothing until they are used."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import ctplatform
from ctplatform.lazy import attach

ROOMS = [
    info.name
    for info in pkgutil.walk_packages(ctplatform.__path__, "ctplatform.")
    if info.ispkg and hasattr(importlib.import_module(info.name), "__all__")
]
HEAVY = ("torch", "ray", "SimpleITK", "monai", "pandas")


def test_all_rooms_have_faces():
    top = {info.name for info in pkgutil.iter_modules(ctplatform.__path__, "ctplatform.") if info.ispkg}
    assert top == {room for room in ROOMS if room.count(".") == 1}


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_resolve_and_hide_no_submodule(room):
    face = importlib.import_module(room)
    assert face.__doc__
    submodules = {info.name for info in pkgutil.iter_modules(face.__path__)}
    assert not submodules & set(face.__all__)
    assert dir(face) == sorted(face.__all__)
    for name in face.__all__:
        found = getattr(face, name)
        assert getattr(found, "__name__", name) == name
        where = getattr(found, "__module__", None) or room
        assert where.split(".")[0] in ("ctplatform", "drasclr", "typing", "builtins"), where


def test_faces_import_nothing_heavy():
    code = f"import importlib, sys\nfor room in {ROOMS!r}: importlib.import_module(room)\n"
    code += f"print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_other_names_are_attribute_errors():
    get, _ = attach("ctplatform.storage", {"Workspace": "workspace"})
    assert get("Workspace").__name__ == "Workspace"
    with pytest.raises(AttributeError, match=r"'ctplatform\.storage' has no attribute 'Workplace'"):
        get("Workplace")
