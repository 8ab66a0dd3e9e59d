"""The synthetic cohort of a workspace: made once, continued where it was interrupted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctplatform.config.recipe import PhantomConfig
from ctplatform.imaging.volume import read_volume
from ctplatform.phantom.cohort import phantom_cohort
from ctplatform.phantom.files import LABEL_MAPS, generate
from ctplatform.storage.layout import PHANTOM
from ctplatform.storage.workspace import Workspace

CONFIG = PhantomConfig(subjects=3, seed=2, spacing_mm=6.0, dicom_every=3)


@pytest.fixture(scope="module")
def made(
    ray_local, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, pd.DataFrame, list[tuple[int, int]]]:
    workspace, progress = Workspace(tmp_path_factory.mktemp("ws")), []
    table = phantom_cohort(workspace, CONFIG, on_progress=lambda *counts: progress.append(counts))
    return workspace, table, progress


def test_the_tasks_make_the_cohort_of_one_process(made, tmp_path: Path) -> None:
    workspace, table, progress = made
    alone = generate(tmp_path, CONFIG)
    places = ["path", *LABEL_MAPS]
    pd.testing.assert_frame_equal(table.drop(columns=places), alone.drop(columns=places))
    for name in places:
        for ours, theirs in zip(table[name], alone[name]):
            assert Path(ours).relative_to(workspace.path(PHANTOM)) == Path(theirs).relative_to(tmp_path)
            files = [Path(ours)] if Path(ours).is_file() else sorted(Path(ours).iterdir())
            others = [Path(theirs)] if Path(theirs).is_file() else sorted(Path(theirs).iterdir())
            assert [f.read_bytes() for f in files] == [f.read_bytes() for f in others]
    assert progress[-1] == (3, 3)
    assert read_volume(table["path"][0]).image.GetDimension() == 3


def test_only_missing_subjects_are_made_again(made) -> None:
    workspace, table, _ = made
    rows = sorted(workspace.files(PHANTOM, "rows", suffix=".json"))
    assert len(rows) == 3
    before = Path(table["path"][0]).stat().st_mtime_ns
    workspace.delete(PHANTOM, "rows", rows[1])
    progress: list[tuple[int, int]] = []
    again = phantom_cohort(workspace, CONFIG, on_progress=lambda *counts: progress.append(counts))
    pd.testing.assert_frame_equal(again, table)
    assert progress == [(1, 1)]
    assert Path(table["path"][0]).stat().st_mtime_ns == before
    assert phantom_cohort(workspace, CONFIG, on_progress=lambda *_: pytest.fail("nothing is missing")).equals(
        table
    )


def test_another_configuration_has_rows_of_its_own(made) -> None:
    workspace, table, _ = made
    other = phantom_cohort(workspace, CONFIG.model_copy(update={"subjects": 1, "seed": 9}))
    assert len(other) == 1
    assert other["fev1pp"][0] != table["fev1pp"][0]
    assert len(workspace.files(PHANTOM, "rows", suffix=".json")) == 4
