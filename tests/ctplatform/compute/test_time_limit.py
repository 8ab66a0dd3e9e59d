"""Work that does not end ends its process, after it was recorded; other work is not touched."""

from __future__ import annotations

import subprocess
import sys
import time

from ctplatform.compute.time_limit import time_limit

HANGS = """
import sys, time
from ctplatform.compute.time_limit import time_limit
with time_limit(0.2, lambda: print("recorded", flush=True)):
    time.sleep(300)
"""


def test_work_beyond_the_limit_is_recorded_and_ended():
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "recorded\n")
    assert time.monotonic() - begun < 200


def test_work_within_the_limit_goes_on():
    late = []
    with time_limit(0.05, lambda: late.append(1)):
        pass
    time.sleep(0.2)
    assert not late


RESTARTS = """
import time
from ctplatform.compute.time_limit import time_limit
with time_limit(2.0, lambda: print("recorded", flush=True)) as restart:
    for _ in range(4):
        time.sleep(0.8)
        restart()
"""


def test_the_time_begins_anew():
    ended = subprocess.run([sys.executable, "-c", RESTARTS], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")
