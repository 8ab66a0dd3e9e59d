"""Limits and choices of following a job. Real jobs and lost connections: tests/jobs/test_submission.py."""

from __future__ import annotations

import io
import sys
import time

import pytest

from ctplatform.compute import job_log
from ctplatform.compute.job_log import choose_on_terminal, connect
from ctplatform.errors import StageError


def test_an_answer_in_time_is_returned_and_an_error_raised():
    assert job_log._within_limit(lambda: 7) == 7
    with pytest.raises(KeyError):
        job_log._within_limit(lambda: {}["missing"])


def test_a_request_without_an_answer_ends_at_the_limit(monkeypatch):
    monkeypatch.setattr(job_log, "ANSWER_S", 0.2)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer"):
        job_log._within_limit(lambda: time.sleep(5))
    assert time.monotonic() - start < 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "choice"),
    [("d\n", "detach"), ("S\n", "stop"), (" continue\n", "continue"), ("x\nstop\n", "stop"), ("", "detach")],
)
def test_choices_on_a_terminal(monkeypatch, capsys, typed, choice):
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert choose_on_terminal("job-1") == choice
    assert "job-1 is running on the cluster" in capsys.readouterr().out


def test_without_a_terminal_the_job_is_left_running(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("s\n"))
    assert choose_on_terminal("job-1") == "detach"


def test_an_address_without_a_dashboard_is_named(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(StageError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:9"):
        connect("http://127.0.0.1:9")
