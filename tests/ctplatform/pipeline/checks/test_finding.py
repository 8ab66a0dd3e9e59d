"""Errors stop a run, all at once; warnings do not."""

from __future__ import annotations

import pytest

from ctplatform.errors import ConfigError, PreflightError
from ctplatform.pipeline.checks.finding import Finding, errors, of_error, require

WRONG = Finding("error", "sweep.tasks", "there is no task 'x'", "Use another")
ODD = Finding("warning", "path", "one is missing")


def test_warnings_stop_nothing():
    require([ODD])
    assert errors([ODD, WRONG]) == [WRONG]
    assert ODD.line() == "warning  path: one is missing"


def test_one_error_is_one_sentence_and_several_are_a_line_each():
    with pytest.raises(PreflightError, match=r"^sweep.tasks: there is no task 'x'. Use another.$"):
        require([ODD, WRONG])
    with pytest.raises(PreflightError) as raised:
        require([WRONG, ODD, of_error("--recipe", ConfigError("it is none", "Give one"))])
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("2 problems were found before anything started")
    assert lines[1:] == [
        "  sweep.tasks: there is no task 'x'. Use another",
        "  --recipe: it is none. Give one.",
        "Correct them all, then run it again.",
    ]


def test_a_finding_is_plain_for_json():
    assert WRONG.plain() == {
        "level": "error",
        "where": "sweep.tasks",
        "problem": "there is no task 'x'",
        "remedy": "Use another",
    }
