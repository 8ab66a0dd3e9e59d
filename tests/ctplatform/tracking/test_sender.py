"""Items are sent in order and once; what fails is sent again, with one warning; closing never waits for ever."""

from __future__ import annotations

import threading
import time

from ctplatform.tracking import sender as module
from ctplatform.tracking.sender import Sender


class Recorder(Sender[int]):
    """Sends to a list; fails while `down` is set, blocks while `gate` is not."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.ended = False
        self.attempts = 0
        self.down = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        super().__init__(name="test", refused="refused", work="the work", lost="lost items")

    def put(self, item: int) -> None:
        self._queue.put(item)

    def _send(self, *, ended: bool) -> None:
        self.gate.wait()
        self.attempts += 1
        if self.down.is_set():
            raise ConnectionError("down")
        while self._pending:
            self.sent.append(self._pending.pop(0))
        self.ended = ended


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_items_arrive_in_order_and_the_end_after_them(caplog):
    sender = Recorder()
    for item in range(100):
        sender.put(item)
    sender.close()
    assert sender.sent == list(range(100))
    assert sender.ended
    assert not caplog.records


def test_what_failed_is_sent_with_what_follows_and_warned_of_once(caplog):
    sender = Recorder()
    sender.down.set()
    for attempt in (1, 2, 3):
        sender.put(attempt)
        until(lambda: sender.attempts == attempt)  # noqa: B023
    assert sender.sent == []
    sender.down.clear()
    sender.put(4)
    sender.close()
    assert sender.sent == [1, 2, 3, 4]
    (record,) = caplog.records
    assert record.getMessage() == "refused (ConnectionError); the work continues, and sending is tried again"


def test_items_that_a_server_never_took_are_reported(caplog):
    sender = Recorder()
    sender.down.set()
    sender.put(1)
    sender.close()
    assert not sender.ended
    assert caplog.records[-1].getMessage() == "lost items"


def test_closing_waits_for_a_hanging_server_only_so_long(caplog, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.2)
    sender = Recorder()
    sender.gate.clear()
    start = time.monotonic()
    sender.put(1)
    sender.close()
    assert time.monotonic() - start < 10
    assert caplog.records[-1].getMessage() == "lost items"
    sender.gate.set()
