"""NiiVue is found where npm has put it, in the version that pages are tested with."""

import json

from ctplatform.report.niivue import VERSION, installed
from tests.conftest import ROOT


def install(place, version: str) -> None:
    package = place / "node_modules" / "@niivue" / "niivue"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": version, "license": "BSD-2-Clause"}))
    (package / "dist" / "niivue.umd.js").write_text("window.niivue = {};")


def test_the_tested_version_is_found(tmp_path):
    assert installed([tmp_path]) is None
    install(tmp_path / "old", "0.1.0")
    install(tmp_path / "new", VERSION)
    assert installed([tmp_path / "old"]) is None
    found = installed([tmp_path / "none", tmp_path / "old", tmp_path / "new"])
    assert (found.script, found.version, found.licence) == ("window.niivue = {};", VERSION, "BSD-2-Clause")


def test_it_is_installed_in_this_version_everywhere():
    for name in ("Makefile", "docs/how-to/look.md"):
        assert f"@niivue/niivue@{VERSION}" in (ROOT / name).read_text(encoding="utf-8")
