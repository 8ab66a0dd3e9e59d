"""Rows of a ledger, for the tests of it."""

from __future__ import annotations

from ctplatform.dataset import ledger
from ctplatform.storage.workspace import Workspace


def write(
    workspace: Workspace, scan: str, *, version: int = 1, state: str = "accepted", **more: object
) -> None:
    """Write a scan's row with the columns that the tests look at."""
    row = {"scan_id": scan, "subject_id": f"p-{scan}", "version": version, "state": state, **more}
    ledger.write_row(workspace, {"affine": [float(version)] * 16, "footer": b"f" * 50, **row})
