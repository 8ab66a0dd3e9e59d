"""Cohort to shards with Ray Data: one task reads, masks, registers, samples and writes one scan.

The task itself commits the scan (shard, then ledger row), so a killed worker, a retry or a second run leaves each
scan whole or absent, and neither a volume nor a patch passes through the object store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow.fs as pafs

from ctplatform import __version__, ledger, shards
from ctplatform.config import PrepareConfig, Recipe, config_hash
from ctplatform.errors import ScanError, StageError
from ctplatform.placement import ray_options
from ctplatform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.registration import Template
    from drasclr.atlas import Atlas

logger = logging.getLogger(__name__)

#: Failures that may pass by themselves: a second run tries these scans again.
TRANSIENT = ("unexpected", "io-error", "missing-path")
#: Settings that change where a scan is prepared, not what comes out.
HARDWARE = {"num_cpus", "memory_gb"}


@dataclass(frozen=True)
class PrepareSummary:
    """What came out: scans by state, how many were done in this run, and why some are not usable."""

    counts: dict[str, int]
    done: int
    skipped: int
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> PrepareSummary:
    """Prepare every scan of the table that is not finished yet.

    Args:
        workspace: holds the atlas; receives `scans/` and `patches/`.
        cohort: columns scan_id, subject_id, path and, for DICOM, series_uid.
        recipe: `prepare` says how.
        on_progress: called with (scans done, scans to do) in this run.

    Raises:
        StageError: no atlas yet, or not one scan of the cohort could be used.
    """
    import ray

    from ctplatform.atlas import read_atlas

    start = time.monotonic()
    wanted = settings_hash(recipe, read_atlas(workspace).hash)
    pending = _pending(workspace, cohort, wanted)
    if pending:
        dataset = ray.data.from_items(pending, override_num_blocks=len(pending)).map(
            _Preparer(workspace, recipe.prepare, wanted),
            num_cpus=recipe.prepare.num_cpus,
            memory=recipe.prepare.memory_gb * 2**30 or None,
            **ray_options(recipe.placement.prepare),
        )
        for done, _ in enumerate(dataset.iter_rows(), 1):
            if on_progress:
                on_progress(done, len(pending))
    rows = ledger.read_ledger(workspace, columns=["scan_id", "state", "reason"])
    rows = rows[rows["scan_id"].isin(cohort["scan_id"])]
    summary = PrepareSummary(
        counts={state: Counter(rows["state"])[state] for state in ledger.STATES},
        done=len(pending),
        skipped=len(cohort) - len(pending),
        reasons={r.scan_id: f"{r.state}: {r.reason}" for r in rows.itertuples() if r.state != "accepted"},
        seconds=time.monotonic() - start,
    )
    ledger.usable(rows, use_flagged=recipe.prepare.quality.use_flagged)
    return summary


def settings_hash(recipe: Recipe, atlas_hash: str) -> str:
    """Names all that a scan's patches depend on beside the scan; where and on how much it runs is no part of it."""
    return config_hash(recipe.prepare.model_dump(mode="json", exclude=HARDWARE), atlas_hash)


def _pending(workspace: Workspace, cohort: pd.DataFrame, wanted: str) -> list[dict[str, str]]:
    """The rows whose ledger row is missing, or was made of another input or with another configuration."""
    finished: dict[str, Any] = {}
    if workspace.files(ledger.FOLDER, suffix=".parquet"):
        columns = ["scan_id", "state", "code", "fingerprint", "config_hash"]
        finished = {row.scan_id: row for row in ledger.read_ledger(workspace, columns=columns).itertuples()}
    pending = []
    for row in cohort.to_dict("records"):
        old = finished.get(row["scan_id"])
        print_ = fingerprint(row["path"])
        if old and old.config_hash == wanted and old.fingerprint == print_ and old.code not in TRANSIENT:
            continue
        if old:
            why = (
                "configuration"
                if old.config_hash != wanted
                else "input"
                if old.fingerprint != print_
                else "failure"
            )
            logger.info("%s is prepared again: %s changed", row["scan_id"], why)
        pending.append(
            {
                "scan_id": row["scan_id"],
                "subject_id": row["subject_id"],
                "path": row["path"],
                "series_uid": row.get("series_uid") or "",
                "fingerprint": print_,
            }
        )
    return pending


def fingerprint(path: str) -> str:
    """Twelve hex digits that change with the sizes and times of a scan's files; empty if there are none."""
    try:
        fs, inner = (pafs.FileSystem.from_uri(path)) if "://" in path else (pafs.LocalFileSystem(), path)
        info = fs.get_file_info(inner)
        files = fs.get_file_info(pafs.FileSelector(inner)) if info.type == pafs.FileType.Directory else [info]
        stamps = sorted((file.size, file.mtime_ns) for file in files if file.is_file)
    except OSError:
        return ""
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:12] if stamps else ""


class _Preparer:
    """Row -> committed scan. Picklable; the atlas is read once a worker process."""

    def __init__(self, workspace: Workspace, config: PrepareConfig, wanted: str) -> None:
        self.workspace, self.config, self.wanted = workspace, config, wanted

    def __call__(self, item: dict[str, str]) -> dict[str, str]:
        row = prepare_scan(self.workspace, item, self.config, config_hash=self.wanted)
        return {"scan_id": row["scan_id"], "state": row["state"]}


def prepare_scan(
    workspace: Workspace, item: dict[str, str], config: PrepareConfig, *, config_hash: str
) -> dict[str, Any]:
    """Prepare and commit one scan; whatever is wrong with it ends in its ledger row, which is returned."""
    clock = StepClock()
    row: dict[str, Any] = {
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
    }
    try:
        atlas, template = _atlas_of(workspace, config.model_dump_json(), config_hash)
        row["atlas_hash"] = atlas.hash
        row.update(_process(workspace, item, config, atlas, template, clock))
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
    if row["state"] in ("failed", "rejected"):
        workspace.delete(shards.FOLDER, f"{item['scan_id']}.parquet")
    row["seconds"], row["cpu_seconds"], row["steps"] = clock.wall(), clock.cpu(), json.dumps(clock.steps)
    ledger.write_row(workspace, row)
    return row


def _process(
    workspace: Workspace,
    item: dict[str, str],
    config: PrepareConfig,
    atlas: Atlas,
    template: Template,
    clock: StepClock,
) -> dict[str, Any]:
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
        measures = measure(volume, mask, registration, patches)
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
