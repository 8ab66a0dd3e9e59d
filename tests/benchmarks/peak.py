"""Peak memory of a process."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """Peak of this process's own resident memory, MiB. Not ru_maxrss: a child starts with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
