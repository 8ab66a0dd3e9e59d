"""Cohort to shards with Ray Data: one task reads, masks, registers, samples and writes one scan.

The task itself commits the scan (shard, then ledger row), so a killed worker, a retry or a second run leaves each
scan whole or absent, and neither a volume nor a patch passes through the object store.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ctplatform import __version__, ledger, shards
from ctplatform.compaction import compact, sweep
from ctplatform.config import PrepareConfig, Recipe
from ctplatform.errors import ScanError, StageError
from ctplatform.placement import ray_options
from ctplatform.plan import HARDWARE, NEW, TRANSIENT, Plan, fingerprint, make_plan, settings_hash
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import ray

    from ctplatform.registration import Template
    from drasclr.atlas import Atlas

__all__ = [
    "HARDWARE",
    "TRANSIENT",
    "Plan",
    "PrepareSummary",
    "fingerprint",
    "prepare",
    "prepare_scan",
    "settings_hash",
]
logger = logging.getLogger(__name__)

#: A scan whose worker dies this often (killed for its memory, crashed in a decoder) is given up, and the others go on.
RETRIES = 3

#: What `process_scan` is.
Process = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class PrepareSummary:
    """What came out: scans by state, how many were done in this run, and why some are not usable."""

    counts: dict[str, int]
    done: int
    skipped: int
    reasons: dict[str, str] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    process: Process | None = None,
) -> PrepareSummary:
    """Prepare every scan of the table that is not finished yet.

    Args:
        workspace: holds the atlas; receives `scans/` and `patches/`.
        cohort: columns scan_id, subject_id, path and, for DICOM, series_uid.
        recipe: `prepare` says how.
        on_plan: told what will be done and why, before it is.
        on_progress: called with (scans done, scans to do) in this run.
        process: what makes patches and measures of a scan; None: `process_scan`. For simulations.

    Raises:
        StageError: no atlas yet, the workspace cannot be written, or not one scan of the cohort could be used.
    """
    from ctplatform.atlas import read_atlas

    start = time.monotonic()
    atlas_hash = read_atlas(workspace).hash
    plan = make_plan(workspace, cohort, recipe, atlas_hash)
    if on_plan:
        on_plan(plan)
    if plan.items:
        worker = _Preparer(
            workspace, recipe.prepare, settings_hash(recipe, atlas_hash), process or process_scan
        )
        _run(plan.items, worker, recipe, on_progress)
        _tidy(workspace, recipe)
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "reason"])
    rows = rows[rows["scan_id"].isin(cohort["scan_id"])]
    summary = PrepareSummary(
        counts={state: Counter(rows["state"])[state] for state in ledger.STATES},
        done=len(plan.items),
        skipped=plan.finished,
        reasons={r.scan_id: f"{r.state}: {r.reason}" for r in rows.itertuples() if r.state != "accepted"},
        causes=plan.causes,
        seconds=time.monotonic() - start,
    )
    ledger.usable(rows, use_flagged=recipe.prepare.quality.use_flagged)
    return summary


def _run(
    items: list[dict[str, Any]],
    worker: _Preparer,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """One Ray task a scan. Scans whose task was lost with a node or a process, retries included, are tried once more;
    then they end as failed.

    Raises:
        StageError: what a task met is no fault of its scan.
    """
    left, done = items, 0
    for _ in range(2):
        dataset = _one_task_a_scan(left, worker, recipe)
        dataset.context.max_errored_blocks = -1  # a block is a scan here, and a lost one no reason to stop
        seen = set()
        for row in dataset.iter_rows():
            if row["state"] == _STOPPED:
                raise StageError(row["problem"], row["remedy"], code=row["code"])
            seen.add(row["scan_id"])
            done += 1
            if on_progress:
                on_progress(done, len(items))
        left = [item for item in left if item["scan_id"] not in seen]
        if not left:
            return
    for item in left:
        row = _new_row(item, worker.wanted)
        _settle(worker.workspace, row | _CRASHED)


def _one_task_a_scan(items: list[dict[str, Any]], worker: _Preparer, recipe: Recipe) -> ray.data.Dataset:
    import ray
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        # There is no other way yet to say this, and by itself Ray Data never gives up: one bad scan would hold up all.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map(
            worker,
            num_cpus=recipe.prepare.num_cpus,
            memory=recipe.prepare.memory_gb * 2**30 or None,
            max_retries=RETRIES,
            **ray_options(recipe.placement.prepare),
        )


def _tidy(workspace: Workspace, recipe: Recipe) -> None:
    """Compaction in a task of its own, on a node that is there already: the driver never holds the ledger's footers."""
    import ray

    options = ray_options(recipe.placement.prepare)
    task = ray.remote(num_cpus=0.5, max_retries=RETRIES, **options)(_compact_and_sweep)
    ray.get(task.remote(workspace))


def _compact_and_sweep(workspace: Workspace) -> None:
    compact(workspace)
    sweep(workspace)


_STOPPED = "stopped"
_CRASHED = {
    "state": "failed",
    "reason": "the worker process died each time it worked on this scan: out of memory, or a crash of a decoder",
    "remedy": "Give a scan more memory (prepare.memory_gb), or export it again; the next run tries it again",
    "code": "crashed",
}


class _Preparer:
    """Row -> committed scan. Picklable; the atlas is read once a worker process."""

    def __init__(self, workspace: Workspace, config: PrepareConfig, wanted: str, process: Process) -> None:
        self.workspace, self.config, self.wanted, self.process = workspace, config, wanted, process

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        told = {"scan_id": item["scan_id"], "problem": "", "remedy": "", "code": ""}
        try:
            row = prepare_scan(
                self.workspace, item, self.config, config_hash=self.wanted, process=self.process
            )
        except StageError as error:  # told as a value: exceptions of a task are counted, not shown
            return told | {
                "state": _STOPPED, "problem": error.problem, "remedy": error.remedy, "code": error.code
            }  # fmt: skip
        return told | {"state": row["state"]}


def _new_row(item: dict[str, Any], config_hash: str) -> dict[str, Any]:
    return {
        "scan_id": item["scan_id"],
        "subject_id": item["subject_id"],
        "fingerprint": item["fingerprint"],
        "config_hash": config_hash,
        "software": __version__,
        "patches": 0,
        "reason": "",
        "remedy": "",
        "code": "",
        "notes": "",
        "cause": item.get("cause", NEW),
        "version": item.get("version", 1),
    }


def _settle(workspace: Workspace, row: dict[str, Any]) -> None:
    """Commit a row; what may not be used leaves no shard behind, and what failed no picture."""
    if row["state"] in ("failed", "rejected"):
        workspace.delete(shards.FOLDER, f"{row['scan_id']}.parquet")
    if row["state"] == "failed":
        workspace.delete(ledger.FOLDER, "qc", f"{row['scan_id']}.png")
    ledger.write_row(workspace, row)


def prepare_scan(
    workspace: Workspace,
    item: dict[str, Any],
    config: PrepareConfig,
    *,
    config_hash: str,
    process: Process | None = None,
) -> dict[str, Any]:
    """Prepare and commit one scan; whatever is wrong with it ends in its ledger row, which is returned.

    Safe to repeat and to kill anywhere: a scan that an earlier attempt finished is not done again, and one that is
    renewed is invisible from before its shard changes until its new row is there. An item that did not come from a
    plan, and has no `version`, is prepared whatever there is.
    """
    clock = StepClock()
    row = _new_row(item, config_hash)
    before = ledger.read_row(workspace, item["scan_id"], item["version"]) if "version" in item else None
    if before and all(before[name] == row[name] for name in ("config_hash", "fingerprint", "subject_id")):
        return before
    if item.get("old"):
        mark = {"scan_id": item["scan_id"], "version": item["version"], "state": ledger.STARTED}
        ledger.write_row(workspace, mark | json.loads(item["old"]))
    try:
        atlas, template = _atlas_of(workspace, config.model_dump_json(), config_hash)
        row["atlas_hash"] = atlas.hash
        row.update((process or process_scan)(workspace, item, config, atlas, template, clock, config_hash))
    except ScanError as error:
        row.update(state="failed", reason=error.problem, remedy=error.remedy, code=error.code)
    except StageError:
        raise
    except Exception as error:  # whatever a library throws at a strange file must not stop the other scans
        logger.exception("scan %s", item["scan_id"])
        row.update(
            state="failed",
            # Messages of foreign libraries may hold the path, and paths may hold names: the kind of error only.
            reason=f"an unexpected {type(error).__name__} while working on this scan",
            remedy="See the workers' logs below /tmp/ray/session_latest/logs; the next run tries this scan again",
            code="unexpected",
        )
    row["seconds"], row["cpu_seconds"], row["steps"] = clock.wall(), clock.cpu(), json.dumps(clock.steps)
    _settle(workspace, row)
    return row


def process_scan(
    workspace: Workspace,
    item: dict[str, Any],
    config: PrepareConfig,
    atlas: Atlas,
    template: Template,
    clock: StepClock,
    config_hash: str,
) -> dict[str, Any]:
    """Read, mask, register, sample, measure; write overlay and shard. Returns the ledger row's part of it.

    Raises:
        ScanError: the scan cannot be used.
    """
    import SimpleITK as sitk

    from ctplatform.lungs import make_segmenter
    from ctplatform.overlay import overlay_png
    from ctplatform.quality import assess, measure
    from ctplatform.registration import register
    from ctplatform.sampling import sample_patches
    from ctplatform.volume import content_hash, read_volume

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with clock.step("read"):
        volume = read_volume(item["path"], series_uid=item["series_uid"] or None)
        digest = content_hash(volume)
    with clock.step("mask"):
        mask = make_segmenter(config.lungs)(volume.image)
    with clock.step("register"):
        registration = register(mask.labels, template, config.registration)
    with clock.step("sample"):
        patches = sample_patches(
            volume.image,
            registration.affine_44,
            atlas,
            geometry=config.sampling.geometry,
            axes=config.sampling.axes,
            interpolation=config.sampling.interpolation,
            hu_window=config.hu_window,
        )
    with clock.step("measure"):
        measures = measure(volume, mask, registration, patches, template)
        verdict = assess(measures, config.quality, notes=mask.notes)
    if config.overlays:
        with clock.step("overlay"):
            png = overlay_png(
                volume.image,
                mask.labels,
                centres_mm_N3=patches.centres_mm_N3,
                title=item["scan_id"],
                verdict=": ".join(filter(None, (verdict.state, "; ".join(verdict.reasons)))),
            )
            workspace.write_bytes(png, ledger.FOLDER, "qc", f"{item['scan_id']}.png")
    found: dict[str, Any] = {
        "state": verdict.state,
        "reason": "; ".join(verdict.reasons),
        "remedy": "Look at the overlay, then use the scan or leave it out" if verdict.reasons else "",
        "code": "" if verdict.state == "accepted" else "quality",
        "notes": "; ".join((*volume.notes, *mask.notes)),
        **{name: measures[name] for name in ledger.MEASURES if name in measures},
        "measures": json.dumps({name: round(float(value), 6) for name, value in measures.items()}),
        "affine": [float(value) for value in registration.affine_44.ravel()],
        "source": json.dumps(
            {
                **volume.source,
                "size": list(volume.image.GetSize()),
                "spacing_mm": [round(value, 4) for value in volume.image.GetSpacing()],
            }
        ),
        "content_hash": digest,
    }
    if verdict.state != "rejected":
        with clock.step("write"):
            data, footer = shards.encode(
                scan_id=item["scan_id"],
                subject_id=item["subject_id"],
                hu_NDHW=patches.hu_NDHW,
                inside_N=patches.inside_N,
                atlas=atlas,
                metadata={
                    "content_hash": digest,
                    "affine": json.dumps(found["affine"]),
                    "spacing_mm": 1.0,
                    "hu_window": json.dumps(config.hu_window),
                    "geometry": config.sampling.geometry,
                    "axes": config.sampling.axes,
                    "interpolation": config.sampling.interpolation,
                    "software": __version__,
                    "config_hash": config_hash,
                },
            )
            workspace.write_bytes(data, shards.FOLDER, f"{item['scan_id']}.parquet")
        found.update(footer=footer, patches=len(patches.hu_NDHW), shard_bytes=len(data))
    return found


@lru_cache(maxsize=1)
def _atlas_of(workspace: Workspace, config_json: str, key: str) -> tuple[Atlas, Template]:
    """Once a worker process; `key` changes with the atlas."""
    from ctplatform.atlas import read_atlas, read_template
    from ctplatform.registration import Template

    config = PrepareConfig.model_validate_json(config_json)
    return read_atlas(workspace), Template.from_image(read_template(workspace), config=config.registration)


class StepClock:
    """CPU-seconds a step, and wall and CPU-seconds since it was made."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._start = (time.monotonic(), time.process_time())

    @contextmanager
    def step(self, name: str) -> Any:
        """Time one step."""
        start = time.process_time()
        try:
            yield
        finally:
            self.steps[name] = round(time.process_time() - start, 4)

    def wall(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start[0]

    def cpu(self) -> float:
        """CPU-seconds of this process so far."""
        return time.process_time() - self._start[1]
