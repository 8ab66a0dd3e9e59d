"""One scan's story holds what the files hold, says what is wrong, and names nobody."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctplatform.cli.explain import explain, explain_lines
from ctplatform.cli.main import main
from ctplatform.config.loader import load_recipe
from ctplatform.config.preparation import SplitConfig
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.splits import make_split, write_split
from ctplatform.errors import StageError
from ctplatform.preparation.plan import keep_settings, settings_hash
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace

IDS = ("ct-1a2b3c4d5e", "ct-1a2b3c4d5f", "other-scan", "failed-scan")


@pytest.fixture
def workspace(small_atlas, tmp_path):
    """Three usable scans with shards, one failed one; a split; embeddings of one run."""
    workspace, recipe = Workspace(tmp_path / "ws"), load_recipe("fast")
    keep_settings(workspace, recipe, small_atlas.hash)
    common = {"atlas_hash": small_atlas.hash, "config_hash": settings_hash(recipe, small_atlas.hash)}
    common |= {"software": "9.9", "fingerprint": "f" * 12, "cause": "new", "reason": "", "code": ""}
    side, count = small_atlas.patch_size, small_atlas.num_locations
    for number, scan in enumerate(IDS[:3]):
        content = hashlib.sha256(scan.encode()).hexdigest()
        data, footer = shards.encode(
            scan_id=scan,
            subject_id=f"sub-{number}",
            hu_NDHW=np.full((count, side, side, side), -800 - number, np.int16),
            inside_N=np.ones(count, np.float32),
            atlas=small_atlas,
            metadata={"content_hash": content},
        )
        workspace.write_bytes(data, PATCHES, f"{scan}.parquet")
        source = {"format": "DICOM", "kernel": "B30f", "manufacturer": "Siemens", "slice_thickness_mm": 1.0}
        row = {"scan_id": scan, "subject_id": f"sub-{number}", "state": "accepted", "content_hash": content}
        row |= {"source": json.dumps(source | {"size": [512, 512, 300], "spacing_mm": [0.7, 0.7, 1.0]})}
        row |= {"measures": json.dumps({"dice": 0.912, "laa950": 0.034}), "affine": list(np.eye(4).ravel())}
        row |= {
            "shard_bytes": len(data),
            "footer": footer,
            "patches": count,
            "cpu_seconds": 3.5,
            "laa950": 0.03 * number,
        }
        ledger.write_row(workspace, common | row | {"steps": json.dumps({"read": 1.25, "mask": 0.5})})
    failed = {"scan_id": IDS[3], "subject_id": "sub-9", "state": "failed", "code": "truncated"}
    ledger.write_row(
        workspace, common | failed | {"reason": "the file ends early", "remedy": "Copy it again"}
    )
    rows = ledger.read_ledger(workspace)
    write_split(workspace, make_split(rows[rows["state"] == "accepted"], SplitConfig(test_fraction=0.4)))
    vectors = pa.array([[0.0, 1.0]] * (2 * count))
    ids = pa.array(list(np.repeat(IDS[:2], count))).dictionary_encode()
    patches = pa.table({"scan_id": ids, "location": list(range(count)) * 2, "vector": vectors})
    workspace.write_table(patches, "embeddings", "run-1", "patches", "drasclr-abc.parquet")
    patients = pa.table({"scan_id": list(IDS[:2]), "subject_id": ["s", "t"], "vector": [[0.0, 1.0]] * 2})
    workspace.write_table(patients, "embeddings", "run-1", "patients-drasclr.parquet")
    workspace.write_bytes(b"weights", "pretrain", "run-1", "weights.safetensors")
    workspace.write_json({}, "pretrain", "run-1", "card.json")
    return workspace


def test_it_says_what_the_files_say(workspace, small_atlas):
    found = explain(workspace, IDS[0])
    path = workspace.path(PATCHES, f"{IDS[0]}.parquet")
    file = pq.ParquetFile(path)
    groups = found["shard"]["row_groups"]
    assert [group["block"] for group in groups] == list(range(small_atlas.num_blocks))
    assert [g["rows"] for g in groups] == [file.metadata.row_group(i).num_rows for i in range(len(groups))]
    assert all(a["offset"] + a["bytes"] <= b["offset"] for a, b in itertools.pairwise(groups))
    assert found["shard"]["metadata"]["atlas_hash"] == small_atlas.hash
    assert found["preparation"]["settings"]["hu_window"] == [-1024, 240]
    assert found["preparation"]["steps"] == {"read": 1.25, "mask": 0.5}
    assert found["part"] in ("training", "test")
    (item,) = found["embeddings"]
    assert (item["run"], item["encoder"], item["patches"]) == ("run-1", "drasclr", small_atlas.num_locations)
    assert len(item["files"]) == 2
    assert hashlib.sha256(b"weights").hexdigest() in item["weights"]
    text = "\n".join(explain_lines(found))
    for part in (
        "512 x 512 x 300 voxels",
        "kernel B30f",
        "accepted",
        "dice 0.912",
        "drasclr 9.9",
        small_atlas.hash,
    ):
        assert part in text
    assert found["source"]["content_hash"] in text
    json.dumps(found)
    assert explain(workspace, IDS[2])["embeddings"] == []


def test_a_failed_scan_has_its_reason_and_no_shard(workspace):
    found = explain(workspace, IDS[3])
    assert found["shard"] == {}
    text = "\n".join(explain_lines(found))
    assert "failed: the file ends early" in text
    assert "Copy it again" in text


@pytest.mark.parametrize("harm", ["missing", "shortened", "another"])
def test_a_shard_that_is_not_the_ledgers_is_noticed(workspace, harm):
    name = f"{IDS[0]}.parquet"
    data = workspace.read_bytes(PATCHES, name)
    if harm == "missing":
        workspace.delete(PATCHES, name)
    elif harm == "shortened":
        workspace.write_bytes(data[:-10], PATCHES, name)
    else:
        other = workspace.read_bytes(PATCHES, f"{IDS[1]}.parquet")
        workspace.write_bytes(other, PATCHES, name)
    problem = explain(workspace, IDS[0])["shard"]["problem"]
    assert {"missing": "missing", "shortened": "bytes long instead of", "another": "other voxels"}[
        harm
    ] in problem


def test_an_unknown_scan_gets_close_names(workspace):
    with pytest.raises(StageError, match=r"Did you mean ct-1a2b3c4d5[ef], ct-1a2b3c4d5[ef]\.$") as caught:
        explain(workspace, "CT-1A2B3C4D5")
    assert caught.value.code == "no-such-scan"
    with pytest.raises(StageError, match="Did you mean other-scan"):
        explain(workspace, "other")
    with pytest.raises(StageError, match="It holds 4 scans"):
        explain(workspace, "zzzz")
    ledger.write_row(workspace, {"scan_id": IDS[0], "version": 2, "state": ledger.STARTED})
    with pytest.raises(StageError, match="has not ended"):
        explain(workspace, IDS[0])


def test_by_command(workspace, capsys):
    main(["explain", IDS[0], "--workspace", workspace.root])
    assert "row groups" in capsys.readouterr().out
    main(["explain", IDS[0], "--workspace", workspace.root, "--json"])
    assert json.loads(capsys.readouterr().out) == explain(workspace, IDS[0])
    with pytest.raises(SystemExit):
        main(["explain", "nobody", "--workspace", workspace.root])
    assert "has no scan 'nobody'" in capsys.readouterr().err


def test_its_help_imports_nothing_heavy():
    code = "import sys\nfrom ctplatform.cli.main import main\n"
    code += "try:\n main(['explain', '--help'])\nexcept SystemExit: pass\n"
    code += (
        "print([m for m in ('torch', 'ray', 'SimpleITK', 'pandas', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
