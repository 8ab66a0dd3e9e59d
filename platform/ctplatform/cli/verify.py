"""`drasclr verify`: damaged files of a workspace, each with what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ctplatform.dataset.verification import Damage, verify_data
from ctplatform.errors import StageError
from ctplatform.pipeline.records import read_record
from ctplatform.storage import layout
from ctplatform.storage.layout import CHECKPOINT_MANIFEST, CHECKPOINTS, JSON, PATCHES, PRETRAIN, STAGE_RECORDS
from ctplatform.storage.workspace import Workspace


def verify(workspace: Workspace, *, discard: bool = False) -> list[Damage]:
    """Print each damaged file of a workspace, and return them.

    Args:
        workspace: all its data, stage records and checkpoints are read.
        discard: delete damaged shards, so that the next `prepare` makes them again.
    """

    def progress(done: int, total: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{done}/{total} shards", end="" if done < total else "\n", flush=True)

    found = [
        *verify_data(workspace, on_progress=progress),
        *_records(workspace),
        *_checkpoints(workspace),
    ]
    for damage in found:
        print(f"{workspace.display(*damage.parts)}: {damage.problem}. {damage.remedy}.")
        if discard and damage.parts[0] == PATCHES:
            workspace.delete(*damage.parts)
            print("  discarded; `drasclr prepare` makes it again")
    print(f"{len(found)} damaged" if found else "nothing is damaged")
    return found


def _records(workspace: Workspace) -> Iterator[Damage]:
    for run in ("", *workspace.folders(STAGE_RECORDS)):
        for name in workspace.files(STAGE_RECORDS, *filter(None, [run]), suffix=JSON):
            try:
                read_record(workspace, name.removesuffix(JSON), run)
            except StageError as error:
                yield Damage(layout.stage_record(name.removesuffix(JSON), run), error.problem, error.remedy)


def _checkpoints(workspace: Workspace) -> Iterator[Damage]:
    remedy = "Nothing has to be done: the run resumes from the one before it"
    for run in workspace.folders(PRETRAIN):
        for name in workspace.folders(PRETRAIN, run, CHECKPOINTS):
            folder = (PRETRAIN, run, CHECKPOINTS, name)
            if not workspace.exists(*folder, CHECKPOINT_MANIFEST):
                continue
            try:
                files = workspace.read_json(*folder, CHECKPOINT_MANIFEST)["files"]
                cut = [file for file, size in files.items() if workspace.size(*folder, file) != size]
            except (StageError, AttributeError, KeyError, TypeError):
                yield Damage((*folder, CHECKPOINT_MANIFEST), "it cannot be read", remedy)
                continue
            yield from (Damage((*folder, file), "it is missing or cut", remedy) for file in cut)
