"""What a submission carries: pinned requirements and metadata. Real submissions: tests/jobs/test_submission.py."""

from __future__ import annotations

import getpass

import pytest

from ctplatform import __version__
from ctplatform.compute.submission import metadata, pins, submit
from ctplatform.errors import StageError

PROJECT = """
[project]
dependencies = ["Some_Package >=1.0,<2", "extras[b,a]~=3.0; python_version > '3'", "ray[data]>=2.55", "plain"]
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    lines = ["# comment", "some-package==1.4", "extras==3.1", "plain==0.1", "ray==2.60.0", "unused==9", ""]
    (tmp_path / "constraints.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_every_requirement_gets_its_exact_version_and_ray_comes_with_the_node(tree):
    found = pins(tree)
    assert found[0] == "Some_Package==1.4"
    assert found[1].replace(" ", "").startswith("extras[a,b]==3.1")
    assert found[2:] == ["plain==0.1"]


@pytest.mark.parametrize("line", ["", "plain>=0.1"])
def test_a_requirement_without_an_exact_version_is_named(tree, line):
    text = (tree / "constraints.txt").read_text(encoding="utf-8").replace("plain==0.1", line)
    (tree / "constraints.txt").write_text(text, encoding="utf-8")
    with pytest.raises(StageError, match="pins no version of plain"):
        pins(tree)


def test_metadata_names_software_recipe_and_workspace():
    found = metadata(["--recipe", "fast", "--workspace=/data/ws", "--to", "embed", "--from"])
    assert found == {
        "project": "drasclr",
        "version": __version__,
        "recipe": "fast",
        "workspace": "/data/ws",
        "to": "embed",
        "submitted_by": getpass.getuser(),
    }


def test_a_folder_without_the_entry_point_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"holds no jobs/pipeline\.py"):
        submit([], address="http://127.0.0.1:1", root=tmp_path)
