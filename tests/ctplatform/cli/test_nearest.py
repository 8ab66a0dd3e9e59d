"""`drasclr nearest`: page, JSON and lines, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from ctplatform.cli.main import main
from ctplatform.dataset import ledger, shards
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

RUN = "run-1"


@pytest.fixture
def searched(small_atlas, tmp_path) -> Workspace:
    """Five scans with patches and random vectors; those of b are nearly those of a."""
    workspace, rng = Workspace(tmp_path / "ws"), np.random.default_rng(0)
    workspace.write_json(small_atlas.to_json(), layout.ATLAS, layout.ATLAS_FILE)
    workspace.write_json({"hu_window": [-1024, 240]}, *layout.card(RUN))
    count, scans = small_atlas.num_locations, list("abcde")
    vectors_SNP = rng.normal(size=(5, count, 6)).astype(np.float32)
    vectors_SNP[1] = vectors_SNP[0] + 0.01
    for scan in scans:
        hu = rng.normal(-850, 30, (count, 8, 8, 8)).astype(np.int16)
        data, _ = shards.encode(
            scan_id=scan,
            subject_id=f"subject {scan}",
            hu_NDHW=hu,
            inside_N=np.ones(count),
            atlas=small_atlas,
            metadata={},
        )
        workspace.write_bytes(data, *layout.shard(scan))
        ledger.write_row(workspace, {"scan_id": scan, "subject_id": f"subject {scan}", "state": "accepted"})
    patches = {
        "scan_id": pa.array(np.repeat(scans, count)).dictionary_encode(),
        "location": pa.array(np.tile(np.arange(count, dtype=np.int32), 5)),
        "inside": pa.array(np.ones(5 * count, np.float32)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors_SNP.ravel()), 6),
    }
    workspace.write_table(pa.table(patches), *layout.patch_vectors(RUN, "drasclr", "0"))
    patients = {"scan_id": scans, "subject_id": scans, "vector": list(vectors_SNP.mean(1))}
    workspace.write_table(pa.table(patients), *layout.patient_vectors(RUN, "drasclr"))
    return workspace


def test_page_and_json(searched, tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    page = tmp_path / "new" / "near.html"
    command = ["nearest", "a", "--workspace", searched.path(), "-o", str(page)]
    main([*command, "--run", RUN, "--location", "1", "--count", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [place["location"] for place in found["locations"]] == [1]
    assert len(found["patients"]) == len(found["locations"][0]["patients"]) == 2
    first = {"scan_id": "b", "subject_id": "subject b"}
    assert found["patients"][0].items() >= first.items()
    assert found["locations"][0]["patients"][0].items() >= first.items()
    assert found["patients"][0]["cosine"] > 0.99 > found["patients"][1]["cosine"]
    html = page.read_text(encoding="utf-8")
    assert html.count("<img src=") == 2
    assert "subject b" in html
    main([*command, "--open"])
    shown = capsys.readouterr().out
    assert shown.count("b of subject b") == 4  # by the patient, and at three locations
    assert opened == [page.as_uri()]


def test_what_is_not_there_is_said(searched, tmp_path, capsys):
    for extra, said in (
        (["nobody"], "nobody has no vector of run run-1"),
        (["a", "--run", "other"], "There are those of run-1"),
        (["a", "-o", "near.png"], "Give a name that ends with .html"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["nearest", *extra, "--workspace", searched.path()])
        assert end.value.code == 1
        assert said in capsys.readouterr().err
