"""`drasclr nearest`: page, JSON and lines, and what is refused."""

from __future__ import annotations

import json

import pytest

from ctplatform.cli.main import main
from ctplatform.storage.layout import patient_vectors


def test_page_and_json(embedded, tmp_path, capsys, monkeypatch):
    workspace, run, _ = embedded
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    scan = workspace.read_table(*patient_vectors(run, "drasclr"))["scan_id"][0].as_py()
    page = tmp_path / "new" / "near.html"
    command = ["nearest", scan, "--workspace", workspace.path(), "-o", str(page)]
    main([*command, "--location", "1", "--count", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [place["location"] for place in found["locations"]] == [1]
    assert len(found["patients"]) == 2
    html = page.read_text()
    assert all(other["scan_id"] in html for other in found["patients"])
    main([*command, "--open"])
    shown = capsys.readouterr().out
    assert all(other["scan_id"] in shown for other in found["patients"])
    assert opened == [page.as_uri()]


def test_an_output_that_is_no_page_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["nearest", "scan", "--workspace", str(tmp_path), "-o", "near.png"])
    assert ".html" in capsys.readouterr().err
