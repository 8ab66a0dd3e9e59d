"""A failure leaves what explains it, and nothing that identifies a patient."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from ctplatform.cli.status import show_status
from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.postmortem import scrubber
from ctplatform.pipeline.records import read_record, read_records
from ctplatform.pipeline.state import WorkspaceState
from ctplatform.storage.layout import PATCHES, POSTMORTEM, POSTMORTEM_LOGS, POSTMORTEM_SUMMARY
from tests.ctplatform.pipeline.quick_chain import QUICK, Notes


def test_a_failure_leaves_a_bundle_without_identity_and_status_reads_it(own, recipe, capsys):
    workspace, cohort = own
    secret = "/data/DOE^JANE/BORN1950/scan.nii.gz"
    table = cohort.assign(path=[secret, *cohort["path"][1:]])
    workspace.delete("pretrain", workspace.folders("pretrain")[0])
    workspace.write_bytes(b"not a shard", PATCHES, workspace.files(PATCHES)[0])
    for name in workspace.files(PATCHES):
        workspace.write_bytes(b"not a shard", PATCHES, name)
    strict = load_recipe("demo", (*QUICK, "pretrain.max_failures=0"))
    with pytest.raises((StageError, OSError)):
        run_chain(workspace, table, strict, Notes(), first="pretrain")
    folder = workspace.folders(POSTMORTEM)[0]
    summary = workspace.read_json(POSTMORTEM, folder, POSTMORTEM_SUMMARY)
    assert summary["stage"] == "pretrain"
    assert summary["recipe"]["pretrain"]["max_failures"] == 0
    assert {"ray", "torch", "drasclr"} <= set(summary["versions"])
    assert [r["state"] for r in summary["stages"] if r["stage"] == "pretrain"] == ["failed"]
    assert summary["nodes"][0]["alive"]
    assert any("Error" in line for line in summary["traceback"])
    everything = json.dumps(summary) + workspace.read_bytes(POSTMORTEM, folder, POSTMORTEM_LOGS).decode()
    for word in ("DOE", "JANE", "BORN1950", str(cohort["path"][1])):
        assert word not in everything
    assert read_record(workspace, "pretrain", _run(workspace, table, strict)).state == "failed"
    capsys.readouterr()
    show_status(workspace)
    text = capsys.readouterr().out
    assert "1 failure(s); the last one: pretrain" in text
    assert folder in text
    assert any(r.state == "failed" for r in read_records(workspace))


def _run(workspace, cohort, recipe) -> str:
    return WorkspaceState(workspace, cohort, recipe).run


def test_scrubbing_keeps_code_and_takes_patients():
    cohort = pd.DataFrame({"scan_id": ["s1"], "path": ["/data/doe_jane/ct.nii.gz"]})
    clean = scrubber(cohort)
    assert clean("cannot read /data/doe_jane/ct.nii.gz") == "cannot read <scan s1>"
    assert clean("see /home/doe/private/list.txt now") == "see <path> now"
    assert clean("s3://bucket/doe_jane/x.nii") == "<path>"
    code = 'File "/venv/lib/python3.11/site-packages/ray/data/dataset.py", line 3'
    assert clean(code) == code


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cannot read /data/Jane Doe/scan one.nii.gz", "cannot read <scan a>"),
        ("[Errno 13] Permission denied: '/data/Joe Bloggs'", "[Errno 13] Permission denied: '<path>'"),
        ("open /mnt/Joe Bloggs/x y/img 1.nii.gz failed", "open <path> failed"),
        ("no such file /mnt/Joe Bloggs.nii.gz here", "no such file <path> here"),
        ("scans at /data/a b/Jane", "scans at <path>"),
        ("and/or 3/4 of it", "and/or 3/4 of it"),
        ("s3://KEY:ab/cd+e@bucket/x failed", "<path> failed"),
    ],
)
def test_scrubbing_takes_whole_paths_with_blanks(text, clean):
    cohort = pd.DataFrame({"scan_id": ["a"], "path": ["/data/Jane Doe/scan one.nii.gz"]})
    assert scrubber(cohort)(text) == clean


def test_a_folder_with_the_name_of_a_plain_word_leaves_the_word_in_messages():
    cohort = pd.DataFrame({"scan_id": ["a", "b"], "path": ["/data/missing", "/data/Doe-1"]})
    clean = scrubber(cohort)
    assert clean("atlas.json is missing. Run atlas first") == "atlas.json is missing. Run atlas first"
    assert clean("slices of /data/missing are missing") == "slices of <scan a> are missing"
    assert (
        clean("copied 'missing' and x/missing, not Doe-1") == "copied '<scan a>' and x/<scan a>, not <scan b>"
    )
