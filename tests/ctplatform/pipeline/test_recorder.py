"""Progress is handed on at once and written now and then; a broken workspace does not hide why a stage failed."""

from __future__ import annotations

import pytest

from ctplatform.errors import StageError
from ctplatform.pipeline import recorder as module
from ctplatform.pipeline.prometheus import Meter
from ctplatform.pipeline.recorder import Recorder
from ctplatform.pipeline.records import Record, read_record
from ctplatform.storage.workspace import Workspace


class Shown:
    def __init__(self) -> None:
        self.lines: list[tuple] = []

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        self.lines.append((stage, done, total, text))

    def announced(self, stage: str, lines: list[str]) -> None:
        self.lines.append((stage, *lines))


@pytest.fixture
def shown() -> Shown:
    return Shown()


def recorder(workspace: Workspace, shown: Shown, **options) -> Recorder:
    return Recorder(workspace, Record("embed", "running", {}, {}), Meter(shown), **options)


def test_progress_is_shown_at_once_and_written_now_and_then(tmp_path, shown, monkeypatch):
    workspace = Workspace(tmp_path)
    kept = recorder(workspace, shown)
    kept.write()
    kept.announced(["two workers"])
    kept.progress(1, 4, "first")
    assert shown.lines == [("embed", "two workers"), ("embed", 1, 4, "first")]
    assert read_record(workspace, "embed").done == 0, "written a moment ago"
    monkeypatch.setattr(module, "RECORD_EVERY_S", -1.0)
    kept.progress(2, 4)
    assert (read_record(workspace, "embed").done, read_record(workspace, "embed").total) == (2, 4)
    kept.end(kept.record.ended_as("finished"))
    assert (read_record(workspace, "embed").state, read_record(workspace, "embed").done) == ("finished", 2)


def test_without_a_place_nothing_is_written(tmp_path, shown):
    kept = recorder(Workspace(tmp_path), shown, stored=False)
    kept.write()
    kept.end(kept.record.ended_as("failed"))
    assert not list(tmp_path.iterdir())


def test_a_broken_workspace_does_not_hide_a_failure(tmp_path, shown):
    (tmp_path / "stages").write_text("a file where the folder should be")
    kept = recorder(Workspace(tmp_path), shown)
    with pytest.raises((OSError, StageError)):
        kept.end(kept.record.ended_as("finished"))
    kept.end(kept.record.ended_as("failed"))
