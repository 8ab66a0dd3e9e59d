"""The order of the evidence's parts: what they need is there, and short ones share a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import evidence
from tests.benchmarks.evidence import ASIDE_CLAIMS, OTHER_PARTS, phases, run_parts, with_results_aside
from tests.benchmarks.evidence_parts import DEVELOPMENT, FRESH, Evidence
from tests.benchmarks.evidence_schedule import (
    CPU_SECONDS,
    SHARED_SECONDS,
    START_SECONDS,
    Schedule,
    forecast,
    kind_of,
    needs_of,
)


@pytest.fixture
def folder(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path)


def taken_one_at_a_time(schedule: Schedule) -> list[list[str]]:
    """All parts in the order in which one process runs them; each is done before the next ones are taken."""
    found = []
    while parts := schedule.take(1):
        schedule.done |= {result for result, _ in parts}
        found += [arguments for _, arguments in parts]
    return found


@pytest.mark.parametrize("only", [None, *([name] for name in ASIDE_CLAIMS)])
def test_every_part_runs_once_and_after_what_it_needs(folder, only):
    all_phases = phases(folder, only=only)
    planned = {result: arguments for phase in all_phases for result, arguments in phase}
    assert len(planned) == sum(len(phase) for phase in all_phases)
    order = taken_one_at_a_time(Schedule(folder, all_phases))
    assert sorted(order) == sorted(planned.values())
    place = {tuple(arguments): number for number, arguments in enumerate(order)}
    earlier: dict[Path, list[str]] = {}
    for phase in all_phases:
        for _, arguments in phase:
            needed = needs_of(folder, arguments, earlier)
            assert all(place[tuple(planned[need])] < place[tuple(arguments)] for need in needed)
            assert kind_of(arguments) in CPU_SECONDS
            assert arguments[0] in OTHER_PARTS or hasattr(Evidence, arguments[0])
        earlier |= dict(phase)
    features = [arguments for arguments in order if arguments[0] == "features"]
    heads = [arguments for arguments in order if arguments[0] in ("probe", "task_heads")]
    for head in heads:
        of_cohort = [
            part for part in features if part[1] == head[1] and part[2:] in (head[2:], ["random", head[3]])
        ]
        assert all(place[tuple(part)] < place[tuple(head)] for part in of_cohort)


def test_results_of_encoders_are_needed(folder):
    planned = {result for phase in phases(folder) for result, _ in phase}
    cohort = next(iter(FRESH))
    fine_tuning = needs_of(folder, ["train", cohort, "emphysema", "finetune", "8", "2"], planned)
    assert fine_tuning == {folder.prepared(cohort), folder.pretrained("local", 2)}
    baseline = needs_of(folder, ["probe", cohort, "best random", "1"], planned)
    assert folder.features_file(cohort, "random", 1) in baseline
    assert needs_of(folder, ["pretrain", "both", "0"], planned) == {folder.prepared(DEVELOPMENT)}


def test_a_part_of_which_nothing_is_known_waits_for_earlier_phases(folder):
    early, late = folder.folder / "early.json", folder.folder / "late.json"
    schedule = Schedule(folder, [[(early, ["prepare", DEVELOPMENT])], [(late, ["another", "part"])]])
    assert schedule.take(2) == [(early, ["prepare", DEVELOPMENT])]
    assert schedule.take(2) == []
    schedule.done.add(early)
    assert schedule.take(2) == [(late, ["another", "part"])]


def test_what_is_there_is_not_made_again(folder):
    all_phases = phases(folder)
    everything = {result for phase in all_phases for result, _ in phase}
    missing = folder.probed_file("first", "local", 1)
    schedule = Schedule(folder, all_phases, done=everything - {missing})
    assert taken_one_at_a_time(schedule) == [["probe", "first", "local", "1"]]


def test_processes_are_shared_up_to_a_length_and_hardly_idle(folder):
    schedule = Schedule(folder, phases(folder))
    total = schedule.seconds
    batches = []
    while parts := schedule.take(2):
        schedule.done |= {result for result, _ in parts}
        batches.append([arguments for _, arguments in parts])
    assert any(len(batch) > 1 for batch in batches)
    for batch in batches:
        assert len({kind_of(arguments) for arguments in batch}) == 1
        assert len(batch) == 1 or sum(CPU_SECONDS[kind_of(one)] for one in batch) <= SHARED_SECONDS
    seconds = forecast(Schedule(folder, phases(folder)), processes=2)
    assert total / 2 <= seconds <= 1.1 * (total / 2 + START_SECONDS * len(batches) / 2)


def test_parts_of_a_process_write_what_they_cost(folder, monkeypatch, capsys):
    def write(evidence: Evidence, name: str, number: int) -> None:
        (evidence.folder / name).write_text(str(number), encoding="utf-8")

    monkeypatch.setitem(evidence.OTHER_PARTS, "write", write)
    run_parts(folder, [["write", "a", "1"], ["write", "b", "22"]])
    assert (folder.folder / "b").read_text(encoding="utf-8") == "22"
    lines = (folder.folder / "costs.jsonl").read_text(encoding="utf-8").splitlines()
    costs = [json.loads(line) for line in lines]
    assert [cost["part"] for cost in costs] == [["write", "a", "1"], ["write", "b", "22"]]
    assert costs[0]["cpu_seconds"] > costs[1]["cpu_seconds"] >= 0  # with the imports of the process
    assert "write b 22" in capsys.readouterr().out


def test_what_a_target_of_its_own_made_is_kept():
    stored = {
        "claims": [
            {"name": "global_pays", "value": 1},
            {"name": "encode_once_loses_nothing", "value": 2},
            {"name": "beats_density_where_density_fails", "scores": {"ceiling": 3, "local": 4}},
        ]
    }
    made = {"claims": [{"name": "beats_density_where_density_fails", "scores": {"local": 5}}], "n_test": 90}
    found = with_results_aside(made, stored)
    assert found["n_test"] == 90
    assert {claim["name"]: claim for claim in found["claims"]} == {
        "beats_density_where_density_fails": {
            "name": "beats_density_where_density_fails",
            "scores": {"ceiling": 3, "local": 5},
        },
        "encode_once_loses_nothing": {"name": "encode_once_loses_nothing", "value": 2},
    }
