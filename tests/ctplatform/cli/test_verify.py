"""`drasclr verify` names damaged files of all kinds; what it discards, prepare makes again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctplatform.cli.main import main
from ctplatform.cli.verify import verify
from ctplatform.pipeline.records import Record, write_record
from ctplatform.preparation.plan import _cause
from ctplatform.storage.layout import CHECKPOINT_MANIFEST, CHECKPOINTS, PRETRAIN, shard
from tests.ctplatform.training_world import training_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return training_workspace(tmp_path_factory.mktemp("verified"))


def test_a_whole_workspace(workspace, capsys):
    main(["verify", "--workspace", workspace.uri])
    assert capsys.readouterr().out == "nothing is damaged\n"


def test_records_checkpoints_and_shards(workspace, capsys):
    write_record(workspace, Record("embed", "finished", {}, {}, run="demo-1"))
    Path(workspace.path("stages", "demo-1", "embed.json")).write_text('{"stage": "em')
    folder = (PRETRAIN, "demo-1", CHECKPOINTS, "step-000000002")
    workspace.write_json({"files": {"state.pt": 10}}, *folder, CHECKPOINT_MANIFEST)
    workspace.write_bytes(b"short", *folder, "state.pt")
    workspace.write_bytes(b"", *shard("s0"))
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--workspace", workspace.uri])
    assert ended.value.code == 1
    text = capsys.readouterr().out
    assert "3 damaged" in text
    for name in (
        "stages/demo-1/embed.json: ",
        "step-000000002/state.pt: it is missing or cut",
        "s0.parquet: ",
    ):
        assert name in text
    assert workspace.exists(*shard("s0")), "nothing is deleted unless that is requested"
    assert len(verify(workspace, discard=True)) == 3
    assert not workspace.exists(*shard("s0"))


def test_a_shard_that_is_gone_is_a_cause_to_prepare_again():
    row = {
        "code": "",
        "subject_id": "p",
        "fingerprint": "f",
        "state": "accepted",
        "scan_id": "s",
        "shard_bytes": 7,
    }
    old = type("Row", (), row)
    assert _cause(old, "p", "f", {"s.parquet": 7}) == ""
    assert _cause(old, "p", "f", {}) == "shard"
