"""The report: one self-contained HTML page of a run, and its charts and tables as separate files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.report.build import ReportPaths, build_report, compose
    from ctplatform.report.inputs import Inputs, read_inputs

__all__ = ["Inputs", "ReportPaths", "build_report", "compose", "read_inputs"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Inputs": "inputs",
        "ReportPaths": "build",
        "build_report": "build",
        "compose": "build",
        "read_inputs": "inputs",
    },
)
