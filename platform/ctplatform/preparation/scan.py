"""One scan: read, masked, registered, sampled, assessed; in memory, or committed as shard, overlay and ledger row."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.compute.time_limit import time_limit
from ctplatform.config.preparation import PrepareConfig
from ctplatform.dataset import ledger, shards
from ctplatform.errors import ScanError, StageError
from ctplatform.imaging.limits import TOO_SLOW, Limits, reading_limits
from ctplatform.preparation.plan import NEW
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import SimpleITK as sitk
    from numpy.typing import NDArray

    from ctplatform.preparation.quality import Verdict
    from ctplatform.preparation.sampling import Patches
    from ctplatform.registration.template import Template
    from drasclr.atlas import Atlas

logger = logging.getLogger(__name__)

#: A function with the arguments and result of `process_scan`.
Process = Callable[..., dict[str, Any]]


def new_row(item: dict[str, Any], config_hash: str) -> dict[str, Any]:
    """A scan's ledger row with what is known before it is read."""
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


def commit(workspace: Workspace, row: dict[str, Any]) -> None:
    """Write a scan's row, after deleting its shard if it was rejected or failed, and its overlay if it failed."""
    if row["state"] in ("failed", "rejected"):
        workspace.delete(*layout.shard(row["scan_id"]))
    if row["state"] == "failed":
        workspace.delete(*layout.overlay(row["scan_id"]))
    ledger.write_row(workspace, row)


def prepare_scan(
    workspace: Workspace,
    item: dict[str, Any],
    config: PrepareConfig,
    *,
    config_hash: str,
    process: Process | None = None,
) -> dict[str, Any]:
    """Prepare and commit one scan; an error of the scan ends in its ledger row, which is returned.

    Safe to repeat and to kill anywhere: a scan that an earlier attempt finished is not done again, and one that is
    renewed is invisible from before its shard changes until its new row is written. An item without `version`, which
    did not come from a plan, is always prepared.

    Args:
        workspace: holds the atlas; receives shard, overlay and row.
        item: of a plan: scan_id, subject_id, path, series_uid, lung_mask, fingerprint, version, cause, old.
        config: how it is prepared.
        config_hash: `plan.settings_hash`, kept in the row.
        process: instead of `process_scan`.

    Raises:
        StageError: an error that is not the scan's own, such as a full disk.
    """
    clock = StepClock()
    row = new_row(item, config_hash)
    before = finished_row(workspace, item, row)
    if before is not None:
        return before
    if item.get("old"):
        mark = {"scan_id": item["scan_id"], "version": item["version"], "state": ledger.STARTED}
        ledger.write_row(workspace, mark | json.loads(item["old"]))
    try:
        atlas, template = _atlas_of(workspace, config.model_dump_json(), config_hash)
        row["atlas_hash"] = atlas.hash
        with (
            time_limit(
                config.max_seconds, partial(commit, workspace, row | _too_slow(config))
            ) as clock.restart_limit,
            limits_of(config),
        ):
            row.update(
                (process or process_scan)(workspace, item, config, atlas, template, clock, config_hash)
            )
    except StageError:
        raise
    except Exception as error:  # an unforeseen error of a library must not stop the other scans
        remedy = (
            "See the workers' logs below /tmp/ray/session_latest/logs; the next run tries this scan again"
        )
        row.update(failure(error, item["scan_id"], remedy=remedy))
    row["seconds"], row["cpu_seconds"], row["steps"] = clock.wall(), clock.cpu(), json.dumps(clock.steps)
    commit(workspace, row)
    return row


def finished_row(workspace: Workspace, item: dict[str, Any], row: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier attempt committed of a scan; None if none did.

    Args:
        workspace: holds the ledger.
        item: of a plan.
        row: `new_row` of the item.
    """
    if "version" not in item:
        return None
    before = ledger.read_row(workspace, item["scan_id"], item["version"])
    same = before and all(before[name] == row[name] for name in ("config_hash", "fingerprint", "subject_id"))
    return before if same else None


def failure(error: Exception, scan_id: str, *, remedy: str) -> dict[str, str]:
    """Fields of the row of a scan that raised: state, reason, remedy, code. Errors other than `ScanError` are logged.

    Args:
        error: what was raised.
        scan_id: of the scan, for the log.
        remedy: of an unforeseen error.
    """
    if isinstance(error, ScanError):
        return {"state": "failed", "reason": error.problem, "remedy": error.remedy, "code": error.code}
    logger.error("scan %s", scan_id, exc_info=error)
    return {
        "state": "failed",
        # Messages of libraries may hold the path, and paths may hold names: the type of the error only.
        "reason": f"an unexpected {type(error).__name__} while working on this scan",
        "remedy": remedy,
        "code": "unexpected",
    }


@dataclass(frozen=True)
class SampledScan:
    """One scan in memory, from its file to its patches.

    Attributes:
        verdict: accepted, flagged or rejected, with reasons.
        affine_44: atlas LPS mm -> scan LPS mm.
        patches: at the atlas's locations.
        overlay: PNG with mask, contour and locations; None if `config.overlays` is off.
        fields: of the scan's ledger row: state, reason, measures, source, content_hash, ...
        image: int16 HU, axes in LPS order; None unless it was to be kept.
        lungs: the lung mask; None unless it was to be kept.
    """

    verdict: Verdict
    affine_44: NDArray[np.float64]
    patches: Patches
    overlay: bytes | None
    fields: dict[str, Any]
    image: sitk.Image | None = None
    lungs: sitk.Image | None = None


def limits_of(config: PrepareConfig) -> AbstractContextManager[None]:
    """The recipe's limits for what is read in the context."""
    return reading_limits(Limits(config.max_voxels, config.max_bytes_unpacked))


def _too_slow(config: PrepareConfig) -> dict[str, str]:
    return {
        "state": "failed",
        "reason": f"the scan took longer than prepare.max_seconds={config.max_seconds:g}, and its worker was ended",
        "remedy": "Look at the scan; if it is a good one, set the key higher",
        "code": TOO_SLOW,
    }


@contextmanager
def _at_hand(item: dict[str, Any], clock: StepClock) -> Iterator[str]:
    """The path of a scan, and a CPU slot where the item limits them.

    A series of a public bucket is fetched before the slot is taken, and held in the node's cache until the context
    ends; the path is that of its folder there. Raises as `public_series` does.
    """
    from ctplatform.compute.cpu_slots import cpu_slot
    from ctplatform.imaging.public_series import public_series
    from ctplatform.storage.public import public_place
    from ctplatform.storage.series_cache import SeriesCache

    with ExitStack() as scope:
        path = str(item["path"])
        if place := public_place(path):
            with clock.step("fetch"):
                path = str(scope.enter_context(public_series(place)))
        scope.enter_context(cpu_slot(SeriesCache.of_this_node().root / "slots", item.get("slots", 0)))
        clock.restart_limit()
        yield path


def process_scan(
    workspace: Workspace,
    item: dict[str, Any],
    config: PrepareConfig,
    atlas: Atlas,
    template: Template,
    clock: StepClock,
    config_hash: str,
) -> dict[str, Any]:
    """`sample_scan`, then write overlay and shard. Returns the fields of the ledger row found so.

    Raises:
        ScanError: the scan cannot be used.
    """
    with _at_hand(item, clock) as path:
        scan = sample_scan(item | {"path": path}, config, atlas, template, clock)
    found, patches = scan.fields, scan.patches
    if scan.overlay is not None:
        workspace.write_bytes(scan.overlay, *layout.overlay(item["scan_id"]))
    if scan.verdict.state != "rejected":
        with clock.step("write"):
            data, footer = shards.encode(
                scan_id=item["scan_id"],
                subject_id=item["subject_id"],
                hu_NDHW=patches.hu_NDHW,
                inside_N=patches.inside_N,
                atlas=atlas,
                metadata={
                    "content_hash": found["content_hash"],
                    "affine": json.dumps(found["affine"]),
                    "spacing_mm": 1.0,
                    "hu_window": json.dumps(config.hu_window),
                    "geometry": config.sampling.geometry,
                    "axes": config.sampling.axes,
                    "interpolation": config.sampling.interpolation,
                    "software": __version__,
                    "config_hash": config_hash,
                },
                level=shards.LEVELS[config.shards.compression],
            )
            workspace.write_bytes(data, *layout.shard(item["scan_id"]))
        found.update(
            footer=footer,
            patches=len(patches.hu_NDHW),
            shard_bytes=len(data),
            shard_sha256=hashlib.sha256(data).hexdigest(),
        )
    return found


def sample_scan(
    item: dict[str, Any],
    config: PrepareConfig,
    atlas: Atlas,
    template: Template,
    clock: StepClock,
    *,
    keep_image: bool = False,
) -> SampledScan:
    """Read, mask, register, sample, measure, assess and draw one scan; nothing is written.

    Args:
        item: scan_id (title of the overlay), path, series_uid.
        config: how it is prepared.
        atlas: the locations.
        template: what the lungs are registered to.
        clock: times the steps.
        keep_image: return the image and its lung mask too.

    Raises:
        ScanError: the scan cannot be used.
    """
    import SimpleITK as sitk

    from ctplatform.compute.free_memory import return_free_memory
    from ctplatform.imaging.acquisition import acquisition
    from ctplatform.imaging.volume import content_hash, read_volume
    from ctplatform.lungs.segmenter import lung_mask
    from ctplatform.preparation.overlay import overlay_png
    from ctplatform.preparation.problem_place import problem_place
    from ctplatform.preparation.quality import assess, measure
    from ctplatform.preparation.sampling import sample_patches
    from ctplatform.registration.affine_registration import register

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with clock.step("read"):
        volume = read_volume(item["path"], series_uid=item["series_uid"] or None)
        digest = content_hash(volume)
    with clock.step("mask"):
        mask = lung_mask(volume.image, config.lungs, given=item.get("lung_mask") or "")
    with clock.step("register"):
        registration = register(mask.labels, template, config.registration)
    with clock.step("sample"):
        return_free_memory()  # the peak of a scan's memory follows
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
    png: bytes | None = None
    if config.overlays:
        with clock.step("overlay"):
            png = overlay_png(
                volume.image,
                mask.labels,
                centres_mm_N3=patches.centres_mm_N3,
                title=item["scan_id"],
                verdict=": ".join(filter(None, (verdict.state, "; ".join(verdict.reasons)))),
                through=problem_place(verdict.cause, volume.image, mask, registration, template),
            )
    fields: dict[str, Any] = {
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
        **acquisition(volume.source, json.loads(item.get("acquisition") or "{}")),
    }
    kept = (volume.image, mask.labels) if keep_image else (None, None)
    return SampledScan(verdict, registration.affine_44, patches, png, fields, *kept)


@lru_cache(maxsize=1)
def _atlas_of(workspace: Workspace, config_json: str, key: str) -> tuple[Atlas, Template]:
    """Atlas and template, read once a worker process; `key` changes with the atlas."""
    from ctplatform.dataset.atlas import read_atlas, read_template
    from ctplatform.registration.template import Template

    config = PrepareConfig.model_validate_json(config_json)
    return read_atlas(workspace), Template.from_image(read_template(workspace), config=config.registration)


class StepClock:
    """CPU-seconds of each step, and wall-clock and CPU-seconds since it was created.

    Attributes:
        steps: CPU-seconds by name.
        restart_limit: begins the time limit of the scan anew, once it has been fetched and has a CPU.
    """

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self.restart_limit: Callable[[], None] = lambda: None
        self._start = (time.monotonic(), time.process_time())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
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
