"""The chain of stages: graph, records, estimates, dry runs, post-mortems; each stage is a file in `stages/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.pipeline.assessment import assess
    from ctplatform.pipeline.chain import run_chain
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.dry_run import plan
    from ctplatform.pipeline.estimate import costs_of, size_of
    from ctplatform.pipeline.graph import GRAPH, STAGES
    from ctplatform.pipeline.postmortem import read_bundles
    from ctplatform.pipeline.progress import Decision, Observer, Outcome
    from ctplatform.pipeline.records import Record, read_records
    from ctplatform.pipeline.stage import Stage, StageResult
    from ctplatform.pipeline.state import WorkspaceState

__all__ = [
    "GRAPH",
    "STAGES",
    "Costs",
    "Decision",
    "Observer",
    "Outcome",
    "Record",
    "Size",
    "Stage",
    "StageResult",
    "Work",
    "WorkspaceState",
    "assess",
    "costs_of",
    "plan",
    "read_bundles",
    "read_records",
    "run_chain",
    "size_of",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Costs": "costs",
        "Decision": "progress",
        "GRAPH": "graph",
        "Observer": "progress",
        "Outcome": "progress",
        "Record": "records",
        "STAGES": "graph",
        "Size": "costs",
        "Stage": "stage",
        "StageResult": "stage",
        "Work": "costs",
        "WorkspaceState": "state",
        "assess": "assessment",
        "costs_of": "estimate",
        "plan": "dry_run",
        "read_bundles": "postmortem",
        "read_records": "records",
        "run_chain": "chain",
        "size_of": "estimate",
    },
)
