"""The chain as a graph: what is unchanged is skipped, what changed or was cut off runs, and each says why."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pandas as pd
import pytest

from ctplatform.cli.main import main
from ctplatform.cli.status import show_status
from ctplatform.config.loader import load_recipe
from ctplatform.dataset import ledger
from ctplatform.errors import StageError
from ctplatform.pipeline import assessment, records
from ctplatform.pipeline.assessment import assess
from ctplatform.pipeline.chain import run_chain
from ctplatform.pipeline.dry_run import lines, plan
from ctplatform.pipeline.graph import GRAPH, STAGES, downstream
from ctplatform.pipeline.postmortem import scrubber
from ctplatform.pipeline.records import Record, read_record, read_records, write_record
from ctplatform.pipeline.state import WorkspaceState
from ctplatform.storage.layout import PATCHES, POSTMORTEM, POSTMORTEM_LOGS, POSTMORTEM_SUMMARY
from ctplatform.storage.workspace import Workspace
from tests.conftest import ROOT, SMALL

QUICK = (
    *SMALL,
    "pretrain.num_workers=0",
    "embed.encoders=[drasclr]",
    "sweep.initialisations=[drasclr,density]",
    "sweep.tasks=[emphysema_extent]",
    "sweep.seeds=1",
    "sweep.fractions=[1.0]",
)


class Notes:
    """An observer that keeps what it was given."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []

    def started(self, stage: str, why: str = "") -> None:
        self.ran.append(stage)

    def skipped(self, stage: str, why: str) -> None:
        self.kept.append(stage)

    def announced(self, stage: str, lines: list[str]) -> None:
        assert lines

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        assert 0 <= done <= total

    def finished(self, stage: str, text: str, seconds: float) -> None:
        assert text


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo", QUICK)


@pytest.fixture(scope="module")
def finished(prepared, recipe, tmp_path_factory):
    """(workspace, cohort) after the whole chain; read only."""
    source, cohort = prepared
    target = tmp_path_factory.mktemp("chain") / "ws"
    shutil.copytree(source.root, target)
    workspace, notes = Workspace(target), Notes()
    run_chain(workspace, cohort, recipe, notes)
    assert notes.ran == list(STAGES), "a workspace without records is looked through, stage by stage"
    return workspace, cohort


@pytest.fixture
def own(finished, tmp_path):
    """A copy that a test may change."""
    source, cohort = finished
    shutil.copytree(source.root, tmp_path / "ws")
    return Workspace(tmp_path / "ws"), cohort


def actions(workspace, cohort, recipe, **options) -> dict[str, tuple[str, str]]:
    steps = plan(workspace, cohort, recipe, **options)
    return {s.decision.stage: (s.decision.action, s.decision.why) for s in steps}


def test_every_input_is_made_by_a_stage_before_it():
    made = {"scans", "labels"}
    for stage in GRAPH.values():
        assert set(stage.inputs) <= made
        made |= set(stage.outputs)
    assert downstream("prepare") == ("split", "pretrain", "embed", "sweep", "report")
    assert downstream("sweep") == ("report",)


def test_the_same_again_does_nothing(finished, recipe):
    workspace, cohort = finished
    notes = Notes()
    before = {path: path.stat().st_mtime_ns for path in _files(workspace)}
    outcome = run_chain(workspace, cohort, recipe, notes)
    assert notes.kept == list(STAGES)
    assert not notes.ran
    assert outcome.run, "later commands need the run's name, also when nothing ran"
    assert {path: path.stat().st_mtime_ns for path in _files(workspace)} == before
    steps = plan(workspace, cohort, recipe)
    assert all(s.decision.action == "skip" and s.work.amount == 0 for s in steps)


def _files(workspace):
    from pathlib import Path

    return [path for path in Path(workspace.root).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("override", "stage", "others"),
    [
        (
            "prepare.sampling.interpolation=linear",
            "prepare",
            ("split", "pretrain", "embed", "sweep", "report"),
        ),
        ("embed.pooling=mean_std", "embed", ("sweep", "report")),
        ("sweep.bootstrap=300", "sweep", ("report",)),
        ("report.title=Other", "report", ()),
    ],
)
def test_a_changed_setting_runs_its_stage_and_what_reads_it(finished, recipe, override, stage, others):
    workspace, cohort = finished
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, override)))
    assert found[stage][0] == "run"
    assert override.split("=")[0] in found[stage][1]
    for name in STAGES:
        expected = "run" if name == stage else "after" if name in others else "skip"
        assert found[name][0] == expected, (name, found[name])


def test_hardware_is_no_setting(finished):
    workspace, cohort = finished
    more = (
        "prepare.num_cpus=2",
        "pretrain.num_workers=4",
        "pretrain.checkpoint_every=7",
        "embed.num_workers=1",
        "sweep.max_concurrent=1",
    )
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, *more)))
    assert {action for action, _ in found.values()} == {"skip"}


def test_other_pretraining_is_another_run_with_stages_of_its_own(finished):
    workspace, cohort = finished
    found = actions(workspace, cohort, load_recipe("demo", (*QUICK, "pretrain.lr=0.002")))
    assert [found[name][0] for name in ("atlas", "prepare", "split")] == ["skip"] * 3
    assert found["pretrain"] == ("run", "it has not run in this workspace")
    assert found["embed"][0] in ("after", "wait")


def test_a_new_scan_is_prepared_and_only_that_one(own, recipe, capsys):
    workspace, cohort = own
    more = pd.concat(
        [cohort, cohort.iloc[[0]].assign(scan_id="second", subject_id="someone")], ignore_index=True
    )
    steps = {s.decision.stage: s for s in plan(workspace, more, recipe)}
    assert "scans changed" in steps["prepare"].decision.why
    assert steps["prepare"].work.amount == 1
    outcome = run_chain(workspace, more, recipe, Notes(), first="prepare", last="prepare")
    assert outcome.summaries["prepare"].done == 1


def test_what_is_gone_is_made_again(own, recipe):
    workspace, cohort = own
    run = workspace.folders("evaluation")[0]
    workspace.delete("evaluation", run, "report.html")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "report")
    assert (decision.action, decision.why) == ("run", "report of its last run is gone")
    notes = Notes()
    run_chain(workspace, cohort, recipe, notes)
    assert notes.ran == ["report"]
    assert workspace.exists("evaluation", run, "report.html")


def test_a_stage_that_was_cut_off_is_resumed(own, recipe):
    workspace, cohort = own
    record = read_record(workspace, "prepare")
    write_record(workspace, Record(**{**vars(record), "state": "running", "done": 5, "total": 8}))
    decision = assess(WorkspaceState(workspace, cohort, recipe), "prepare")
    assert (decision.action, decision.why) == ("resume", "its last run was cut off after 5 of 8")
    outcome = run_chain(workspace, cohort, recipe, Notes(), last="prepare")
    assert outcome.summaries["prepare"].skipped == len(cohort), "finished scans are not done again"
    assert read_record(workspace, "prepare").state == "finished"


def test_scans_that_failed_in_passing_are_tried_again(own, recipe):
    workspace, cohort = own
    lost = cohort.iloc[[0]].assign(scan_id="late", path=workspace.path("nowhere.nii.gz"))
    table = pd.concat([cohort, lost], ignore_index=True)
    run_chain(workspace, table, recipe, Notes(), first="prepare", last="prepare")
    decision = assess(WorkspaceState(workspace, table, recipe), "prepare")
    assert decision.action == "resume"
    assert not read_record(workspace, "prepare").complete


def test_another_version_of_the_code_makes_it_again_unless_told_to_keep(own, recipe, monkeypatch):
    workspace, cohort = own
    monkeypatch.setattr(assessment, "__version__", "9.9.9")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "prepare")
    assert (decision.action, decision.redo) == ("run", True)
    assert "9.9.9" in decision.why
    assert assess(WorkspaceState(workspace, cohort, recipe), "prepare", older_code="keep").action == "skip"
    outcome = run_chain(workspace, cohort, recipe, Notes(), first="prepare", last="prepare")
    assert outcome.summaries["prepare"].done == len(cohort)


def test_redone_pretraining_keeps_the_older_weights(own, recipe):
    workspace, cohort = own
    run = workspace.folders("pretrain")[0]
    before = workspace.read_bytes("pretrain", run, "weights.safetensors")
    notes = Notes()
    run_chain(workspace, cohort, recipe, notes, first="pretrain", last="pretrain", redo=("pretrain",))
    assert notes.ran == ["pretrain"]
    older = next(name for name in workspace.folders("pretrain") if "-before-" in name)
    assert workspace.read_bytes("pretrain", older, "weights.safetensors") == before
    assert workspace.exists("pretrain", run, "card.json")


def test_edited_sources_are_told_but_keep_what_is_finished(finished, recipe, monkeypatch):
    workspace, cohort = finished
    monkeypatch.setattr(assessment, "sources_digest", lambda: "another")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "atlas")
    assert decision.action == "skip"
    assert "sources were edited" in decision.why
    assert records.sources_digest() != "another"


def test_an_estimate_takes_its_costs_from_the_workspace(finished, recipe):
    workspace, cohort = finished
    other = load_recipe("demo", (*QUICK, "prepare.sampling.interpolation=linear"))
    steps = {s.decision.stage: s.work for s in plan(workspace, cohort, other)}
    rows = ledger.read_ledger(workspace)
    assert steps["prepare"].amount == len(cohort)
    assert steps["prepare"].core_hours == pytest.approx(rows["cpu_seconds"].mean() * len(cohort) / 3600)
    assert "8 scans of this workspace" in steps["prepare"].basis
    written = sum(len(workspace.read_bytes(PATCHES, n)) for n in workspace.files(PATCHES))
    assert steps["prepare"].written_bytes == pytest.approx(written, rel=0.02)


def test_a_plan_of_steps_is_what_training_does(finished, recipe):
    """The estimate's number of steps is that of the feed."""
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.pipeline.estimate import size_of
    from ctplatform.pipeline.stages.pretrain import steps_in_all
    from ctplatform.training.feed import Feed
    from ctplatform.training.runs import training_scans

    workspace, cohort = finished
    feed = Feed(
        workspace,
        training_scans(workspace, recipe),
        read_atlas(workspace),
        scans_per_batch=recipe.pretrain.scans_per_batch,
        locations_per_batch=recipe.pretrain.locations_per_batch,
    )
    steps, epoch = steps_in_all(recipe, size_of(workspace, recipe, scans=len(cohort)))
    assert steps == recipe.pretrain.max_steps
    assert epoch == pytest.approx(feed.steps_per_epoch(), rel=0.35)


def test_a_dry_run_of_nothing_yet_writes_nothing(tmp_path):
    recipe = load_recipe("demo", QUICK)
    workspace = Workspace(tmp_path / "ws")
    empty = pd.DataFrame(columns=["scan_id", "subject_id", "path"])
    steps = plan(workspace, empty, recipe, scans=60)
    assert [s.decision.action for s in steps][:2] == ["run", "after"]
    assert steps[1].work.amount == 60
    assert not (tmp_path / "ws").exists()
    text = "\n".join(lines(steps))
    assert "60 scans" in text
    assert "docs/benchmarks" in text


def test_a_failure_leaves_a_bundle_without_identity_and_status_reads_it(own, recipe, capsys):
    workspace, cohort = own
    secret = "/data/DOE^JANE/1950/scan.nii.gz"
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
    for word in ("DOE", "JANE", "1950", str(cohort["path"][1])):
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


def test_the_sizing_guide_prints_what_the_command_prints(capsys):
    page = (ROOT / "docs" / "how-to" / "sizing.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ drasclr (estimate .*)$", page, re.M)
    blocks = re.findall(r"```text\n(.*?)\n```", page, re.S)
    assert len(commands) == len(blocks) == 2
    for command, block in zip(commands, blocks, strict=True):
        main(shlex.split(command))
        assert capsys.readouterr().out.rstrip() == block


def test_an_estimate_without_a_gpu_rate_says_what_to_measure(capsys):
    with pytest.raises(SystemExit):
        main(["estimate", "--scans", "100", "--gpus", "8", "--set", "pretrain.use_gpu=true"])
    assert "tests.benchmarks.gpu" in capsys.readouterr().err
