"""Errors say what is wrong and what to do, and stay what they are on their way between processes."""

from __future__ import annotations

import pickle

import pytest

from ctplatform import errors
from ctplatform.errors import PlatformError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PlatformError)]


def test_the_message_is_problem_and_remedy_with_one_full_stop_each():
    for problem, remedy in (("no such scan", "Check the path"), ("no such scan.", "Check the path.")):
        assert str(PlatformError(problem, remedy)) == "no such scan. Check the path."
    assert PlatformError("a", "b").code == "error"


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind):
    """Ray's workers raise them in other processes; a plain exception would lose its second argument."""
    error = kind("scan s1 is cut off", "Copy it again", code="truncated")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert isinstance(again, PlatformError)
    assert (again.problem, again.remedy, again.code) == (error.problem, error.remedy, "truncated")
    assert str(again) == str(error)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://KEY:SEC/RET+x@bucket/a", "s3://bucket/a"),
        ("s3://user@bucket/x", "s3://bucket/x"),
        ("http://u:p@h:80/x@y", "http://h:80/x@y"),
        ("http://host:9000/a@b", "http://host:9000/a@b"),
        ("s3://b/x?secret_key=abc&region=q", "s3://b/x?secret_key=***&region=q"),
        ("gs://bucket/x", "gs://bucket/x"),
    ],
)
def test_no_message_holds_a_secret(uri, shown):
    error = PlatformError(f"{uri} cannot be opened: no access to {uri}", f"Check {uri}")
    assert str(error) == f"{shown} cannot be opened: no access to {shown}. Check {shown}."
    assert "SEC" not in error.problem


def test_the_remedy_of_several_problems_is_a_line_of_its_own():
    assert str(PlatformError("two:\n  a\n  did you mean 'b'?", "Correct them")).splitlines()[-2:] == [
        "  did you mean 'b'?",
        "Correct them.",
    ]
