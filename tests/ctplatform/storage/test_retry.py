"""What may pass is tried again, with growing pauses; what cannot is not."""

from __future__ import annotations

import pytest

from ctplatform.storage import retry
from ctplatform.storage.retry import is_transient, short_reason, with_retries


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", found.append)
    return found


class Failing:
    """An action that fails some times before it succeeds."""

    def __init__(self, error: BaseException, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


SLOW = OSError("AWS Error SLOW_DOWN during GetObject: HTTP status 503")


def test_it_is_tried_until_it_succeeds(pauses):
    action = Failing(SLOW, 3)
    assert with_retries(action, what="x") == "done"
    assert action.calls == 4
    assert len(pauses) == 3
    assert pauses[0] < pauses[1] < pauses[2], "each pause doubles, by more than it varies"


def test_the_last_error_is_raised(pauses):
    action = Failing(SLOW, 100)
    with pytest.raises(OSError, match="SLOW_DOWN"):
        with_retries(action, what="x")
    assert action.calls == retry.ATTEMPTS
    assert len(pauses) == retry.ATTEMPTS - 1


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("x"), PermissionError("x"), OSError("HTTP status 403"), ValueError("no system error")],
)
def test_what_cannot_pass_is_raised_at_once(pauses, error):
    action = Failing(error, 1)
    with pytest.raises(type(error)):
        with_retries(action, what="x")
    assert (action.calls, pauses) == (1, [])
    assert not is_transient(error)


@pytest.mark.parametrize(
    "text", ["HTTP status 503", "HTTP status 429", "HTTP status 408", "connection reset"]
)
def test_overload_and_lost_connections_may_pass(text):
    assert is_transient(OSError(text))


def test_the_reason_is_short_and_names_no_path():
    error = OSError("AWS Error SLOW_DOWN on s3://bucket/DOE_JANE/scan.nii.gz: HTTP status 503")
    assert short_reason(error) == "SLOW_DOWN, HTTP 503"
    assert short_reason(OSError("Connection timed out")) == "Connection, timed out"
    assert short_reason(OSError("/data/DOE_JANE")) == "with an error"
