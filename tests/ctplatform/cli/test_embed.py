"""`drasclr embed SCAN...`: files written, a bad scan as a row, the exit status, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ctplatform.cli.commands import INCOMPLETE
from ctplatform.cli.embed import result_lines
from ctplatform.cli.main import main


def test_one_scan_is_embedded_without_ray(trained, tmp_path, capsys, monkeypatch):
    workspace, run, cohort = trained
    monkeypatch.setattr("ctplatform.compute.session.ray_session", None)  # calling it would fail
    path = cohort["path"].iloc[0]
    out, patches = tmp_path / "new" / "one.parquet", tmp_path / "patches.parquet"
    weights = workspace.path("pretrain", run)
    command = ["embed", path, "--weights", weights, "-o", str(out), "--patches", str(patches)]
    main([*command, "--overlays", str(tmp_path / "qc"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert (result["with_vectors"], result["counts"]) == (1, {"accepted": 1})
    (row,) = pq.read_table(out).to_pylist()
    assert (row["path"], row["state"]) == (path, "accepted")
    assert len(row["vector"]) == 128
    assert row["dice"] > 0.5
    assert pq.read_table(patches).num_rows == len(workspace.read_json("atlas", "atlas.json")["corners_N3"])
    assert (tmp_path / "qc" / f"{row['scan_id']}.png").read_bytes().startswith(b"\x89PNG")


def test_a_bad_scan_is_a_row_and_status_3(trained, tmp_path, capsys):
    workspace, run, cohort = trained
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    table = cohort[["scan_id", "subject_id", "path"]].head(1)
    table.to_csv(tmp_path / "table.csv", index=False)
    out = tmp_path / "both.csv"
    sources = [str(tmp_path / "bad.nii.gz"), str(tmp_path / "table.csv")]
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                "embed",
                *sources,
                "--weights",
                workspace.path("pretrain", run),
                "-o",
                str(out),
                "--workers",
                "1",
            ]
        )
    assert exit_.value.code == INCOMPLETE == 3
    found = pd.read_csv(out)
    assert found["state"].tolist() == ["failed", "accepted"]
    assert found["scan_id"][1] == table["scan_id"].iloc[0]
    assert np.isfinite(found.loc[1, "v127"])
    assert np.isnan(found.loc[0, "v127"])
    text = capsys.readouterr().out
    assert f"{tmp_path}/bad.nii.gz  failed: the content is no NIfTI image" in text
    assert "1 failed, 1 accepted; vectors of 1 scan(s)" in text


def test_old_weights_take_the_atlas_of_their_workspace(trained, tmp_path, capsys):
    workspace, run, cohort = trained
    old = tmp_path / "old"
    old.mkdir()
    for name in ("weights.safetensors", "card.json"):
        (old / name).write_bytes(workspace.read_bytes("pretrain", run, name))
    card = json.loads((old / "card.json").read_text())
    del card["files"], card["preparation"], card["pooling"]
    (old / "card.json").write_text(json.dumps(card))
    command = ["embed", cohort["path"].iloc[0], "--weights", str(old), "-o", str(tmp_path / "x.npz")]
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == 1
    assert "--atlas WORKSPACE/atlas" in capsys.readouterr().err
    main([*command, "--atlas", workspace.path("atlas")])
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.isfinite(arrays["patient_SP"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.nii.gz"], "Give --weights DIR"),
        ([], "nothing to embed"),
        (["a.nii.gz", "--weights", "w", "--workspace", "x"], "belong to the stage"),
        (["a.nii.gz", "--weights", "w", "--set", "prepare.overlays=false"], "belong to the stage"),
        (["a.nii.gz", "--weights", "./none", "-o", "x.csv"], "there is no folder ./none"),
        (["a.nii.gz", "--weights", "./none", "-o", "x.txt"], ".parquet or .csv or .npz"),
        (["--weights", "./none", "-o", "x.csv"], "no scan was given"),
    ],
)
def test_what_cannot_be_done_is_one_message(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["embed", *arguments])
    assert exit_.value.code == 1
    assert message in capsys.readouterr().err


def test_many_bad_scans_are_counted():
    bad = {"scan_id": "a", "state": "failed", "reason": "r", "remedy": "Do it."}
    result = {"scans": [bad] * 25, "counts": {"failed": 25}, "with_vectors": 0, "output": "x.csv"}
    lines = list(result_lines(result))
    assert lines[0] == "  a  failed: r. Do it."
    assert "and 5 more" in lines[20]
    assert lines[-1] == "25 failed; vectors of 0 scan(s) -> x.csv"


def test_the_start_imports_neither_ray_nor_what_only_evaluation_needs():
    code = (
        "import sys, ctplatform.cli.embed, ctplatform.inference.scan_embedding, drasclr.weights\n"
        "print([m for m in ('ray', 'monai', 'sklearn', 'lifelines', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
