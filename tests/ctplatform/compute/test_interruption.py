"""Ctrl-C ends a command within its time, also where a library ignores it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from ctplatform.compute.interruption import ends_within, requested

DEAF = """
import signal, sys, time
from ctplatform.compute.interruption import ends_within, on_interrupt
with ends_within(0.5, message="stopped"):
    signal.signal(signal.SIGINT, lambda number, frame: None)  # as a library of Ray's does
    with on_interrupt(lambda: print("recorded", flush=True)):
        print("ready", flush=True)
        while True:
            time.sleep(1)
"""


def test_a_command_that_ignores_ctrl_c_is_recorded_and_ended():
    with subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (130, "recorded\n")
    assert "stopped" in err


def test_a_command_that_ends_by_itself_is_left_to():
    with pytest.raises(KeyboardInterrupt):
        _interrupt_within(0.2)
    assert requested()
    time.sleep(0.4)
    with ends_within(0.2):
        assert not requested()


def _interrupt_within(seconds: float) -> None:
    with ends_within(seconds):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
