"""Ctrl-C ends a command within its time, also where a library ignores it."""

from __future__ import annotations

import signal
import subprocess
import sys

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


HEARS = """
import os, signal, time
from ctplatform.compute.interruption import ends_within, requested
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell starts with it ignored
try:
    with ends_within(2.0, message="ended"):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", requested())
time.sleep(2.5)
with ends_within(2.0):
    print("again", requested())
"""


def test_a_command_that_ends_by_itself_is_left_to():
    """In a process of its own: were it too slow, it would be ended."""
    ended = subprocess.run([sys.executable, "-c", HEARS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted True\nagain False\n"), ended.stderr
