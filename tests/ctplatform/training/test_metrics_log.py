"""Lines are written with each checkpoint, the newest one about once a second, and by rank 0 only."""

from __future__ import annotations

import time
from typing import Any

from ctplatform.storage.layout import METRICS_FILE, PRETRAIN, PROGRESS_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.training.metrics_log import PROGRESS_EVERY_S, MetricsLog
from ctplatform.training.runs import read_metrics


def line(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 5.0 / step}


def test_the_newest_line_is_written_at_most_once_a_second(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    workspace = Workspace(tmp_path)
    log = MetricsLog(workspace, "run", active=True)
    assert log.last == {}
    log.append(line(1))
    log.append(line(2))
    assert workspace.read_json(PRETRAIN, "run", PROGRESS_FILE) == line(1)
    now += PROGRESS_EVERY_S + 0.1
    log.append(line(3))
    assert workspace.read_json(PRETRAIN, "run", PROGRESS_FILE) == line(3) == log.last
    assert not workspace.exists(PRETRAIN, "run", METRICS_FILE)


def test_a_flush_writes_all_lines_those_before_a_resume_included(tmp_path):
    workspace = Workspace(tmp_path)
    log = MetricsLog(workspace, "run", active=True)
    log.lines = [line(1), line(2)]
    log.append(line(3))
    log.append(line(4))
    log.flush()
    assert read_metrics(workspace, "run") == [line(step) for step in (1, 2, 3, 4)]
    assert workspace.read_json(PRETRAIN, "run", PROGRESS_FILE) == line(4)


def test_ranks_that_are_not_active_write_nothing(tmp_path):
    workspace = Workspace(tmp_path)
    log = MetricsLog(workspace, "run", active=False)
    log.lines = [line(1)]
    log.append(line(2))
    log.flush()
    log.close()
    assert log.lines == [line(1)]
    assert not workspace.exists(PRETRAIN, "run", METRICS_FILE)
    assert not workspace.exists(PRETRAIN, "run", PROGRESS_FILE)
