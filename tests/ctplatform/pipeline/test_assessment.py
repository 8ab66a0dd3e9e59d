"""Each decision names its reason."""

from __future__ import annotations

from ctplatform.pipeline import assessment, records
from ctplatform.pipeline.assessment import assess
from ctplatform.pipeline.state import WorkspaceState


def test_edited_sources_are_told_but_keep_what_is_finished(finished, recipe, monkeypatch):
    workspace, cohort = finished
    monkeypatch.setattr(assessment, "sources_digest", lambda: "another")
    decision = assess(WorkspaceState(workspace, cohort, recipe), "atlas")
    assert decision.action == "skip"
    assert "sources were edited" in decision.why
    assert records.sources_digest() != "another"
