"""The work list of prepare and its causes: the scan table compared with the ledger.

A scan is finished when its row was made with the same settings, the same atlas and the same files, and its shard is
there. Everything else is prepared, and its row keeps the cause.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctplatform.compute.fan_out import fan_out
from ctplatform.compute.isolation import PART_SIZE
from ctplatform.config.digest import config_hash
from ctplatform.config.hardware import LIMITS, PREPARATION
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.errors import StageError
from ctplatform.imaging.fingerprint import fingerprint, named_by_content
from ctplatform.imaging.label_map import given_path
from ctplatform.imaging.limits import TOO_LARGE, TOO_SLOW
from ctplatform.storage import layout
from ctplatform.storage.layout import PATCHES
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

#: Codes of failures that may pass by themselves: the next run tries these scans again.
TRANSIENT = ("unexpected", "io-error", "missing-path", "access-denied", "cache-too-small", "crashed")
#: Codes of scans beyond a limit: tried again whenever the stage runs, since the limit may be another one.
BEYOND_LIMITS = (TOO_LARGE, TOO_SLOW)
#: Columns of a row from which the cause of its renewal follows; kept in the row that marks the renewal.
OLD = ("subject_id", "code", "fingerprint", "atlas_hash", "config_hash")

NEW = "new"
_CAUSES = {
    "atlas": "the atlas changed",
    "input": "their files changed",
    "subject": "their subject_id changed",
    "shard": "their shard is missing or damaged",
    "interrupted": "a run was stopped while it renewed them",
}
_SCANS_PER_TASK = 250
_THREADS = 8


@dataclass(frozen=True)
class Plan:
    """Scans to be prepared, and the number of those that stay as they are.

    Attributes:
        items: one a scan that is to be prepared: the row of the scan table, `fingerprint`, `version`, `cause`,
            `acquisition`, JSON of what the table says of it (`ledger.ACQUISITION`), and `old`, JSON of the columns
            `OLD` of its row (empty for a new one). Empty where the items come in parts.
        causes: scans to be prepared by cause, most frequent first.
        finished: scans that stay as they are.
        unreachable: those of them whose source cannot be reached now; it may have changed.
    """

    items: list[dict[str, Any]]
    causes: dict[str, int]
    finished: int
    unreachable: int

    @property
    def todo(self) -> int:
        """Scans to be prepared."""
        return sum(self.causes.values())

    def lines(self) -> list[str]:
        """Console messages: what will be done and why; none for an empty plan."""
        lines = []
        for cause, count in self.causes.items():
            lines.append(f"{count} new" if cause == NEW else f"{count} again: {cause_in_words(cause)}")
        if self.finished:
            lines.append(f"{self.finished} done before")
        if self.unreachable:
            lines.append(f"{self.unreachable} of them kept although their source cannot be reached now")
        return lines


def make_plan(workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, atlas_hash: str) -> Plan:
    """Compare the scan table with the ledger. Large tables need Ray to be connected."""
    wanted = settings_hash(recipe, atlas_hash)
    keep_settings(workspace, recipe, atlas_hash)
    known = _known(workspace)
    sizes = {info.base_name: info.size for info in workspace.infos(PATCHES)}
    rows = cohort.to_dict("records")
    prints = fingerprints([(row["path"], row.get("series_uid") or "") for row in rows])
    prints = [_with_mask(found, given_path(row.get("lung_mask"))) for found, row in zip(prints, rows)]
    items: list[dict[str, Any]] = []
    unreachable = 0
    changes: dict[tuple[str, str], str] = {}
    for row, found in zip(rows, prints, strict=True):
        old = known.get(row["scan_id"])
        cause = NEW
        if old is not None:
            pair = (str(old.config_hash), str(old.atlas_hash))
            if pair not in changes:
                changes[pair] = _changed_settings(workspace, pair, wanted, atlas_hash)
            cause = changes[pair] or _cause(old, row["subject_id"], found, sizes)
            if not cause:
                unreachable += not found
                continue
        items.append(
            {
                "scan_id": row["scan_id"],
                "subject_id": row["subject_id"],
                "path": row["path"],
                "series_uid": row.get("series_uid") or "",
                "lung_mask": given_path(row.get("lung_mask")),
                "fingerprint": found,
                "version": 1 if old is None else int(old.version or 1) + (old.state != ledger.STARTED),
                "cause": cause,
                "acquisition": _acquisition(row),
                "old": "" if old is None else json.dumps({name: getattr(old, name) for name in OLD}),
            }
        )
    causes = dict(Counter(item["cause"] for item in items).most_common())
    return Plan(items, causes, len(rows) - len(items), unreachable)


def plan_in_parts(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, atlas_hash: str
) -> Iterator[Plan | list[dict[str, Any]]]:
    """The plan without its items, then these, `PART_SIZE` at a time, so that the receiver need not hold them all."""
    plan = make_plan(workspace, cohort, recipe, atlas_hash)
    yield replace(plan, items=[])
    for start in range(0, len(plan.items), PART_SIZE):
        yield plan.items[start : start + PART_SIZE]


def settings_hash(recipe: Recipe, atlas_hash: str) -> str:
    """Digest of everything a scan's patches depend on beside the scan; where it runs and with what resources does not
    count."""
    return config_hash(_settings(recipe), atlas_hash)


def keep_settings(workspace: Workspace, recipe: Recipe, atlas_hash: str) -> None:
    """Store the settings under their digest, so that later runs can name what changed."""
    parts = layout.preparation_settings(settings_hash(recipe, atlas_hash))
    if not workspace.exists(*parts):
        workspace.write_json({"prepare": _settings(recipe), "atlas_hash": atlas_hash}, *parts)


def read_settings(workspace: Workspace, config_hash: str) -> dict[str, Any]:
    """The settings behind a ledger row's `config_hash`; empty if they were not kept."""
    parts = layout.preparation_settings(config_hash)
    return workspace.read_json(*parts) if workspace.exists(*parts) else {}


def cause_in_words(cause: str) -> str:
    """The cause of a ledger row as the end of a sentence about several scans."""
    kind, _, detail = cause.partition(": ")
    if kind == "settings":
        return detail or "the settings changed"
    if kind == "retry":
        return f"they failed before ({detail})"
    return _CAUSES.get(kind, cause)


def fingerprints(scans: Sequence[tuple[str, str]]) -> list[str]:
    """`fingerprint` of each scan, given as (path, series_uid); by Ray tasks if there are more than `PART_SIZE`."""
    if all(named_by_content(path) for path, _ in scans):
        return [fingerprint(*scan) for scan in scans]
    if len(scans) <= PART_SIZE:
        return _fingerprints(scans)
    import ray

    task = ray.remote(num_cpus=0.5)(_fingerprints)
    chunks = [scans[i : i + _SCANS_PER_TASK] for i in range(0, len(scans), _SCANS_PER_TASK)]
    return [found for part in fan_out(task.remote, chunks) for found in part]


def _with_mask(found: str, lung_mask: str) -> str:
    """The fingerprint of a scan with its given lung mask; unchanged without one, empty if either is unreadable."""
    if not lung_mask or not found:
        return found
    mask = fingerprint(lung_mask)
    return config_hash(found, mask)[: len(found)] if mask else ""


def _fingerprints(scans: Sequence[tuple[str, str]]) -> list[str]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda scan: fingerprint(*scan), scans))


def _settings(recipe: Recipe) -> dict[str, Any]:
    # `use_flagged` decides which scans are used, not what they look like.
    excluded: dict[str, Any] = {**dict.fromkeys(PREPARATION | LIMITS, True), "quality": {"use_flagged"}}
    return recipe.prepare.model_dump(mode="json", exclude=excluded)


def _acquisition(row: dict[str, Any]) -> str:
    """JSON; empty where the scan table says nothing."""
    said = {name: row[name] for name in ledger.ACQUISITION if row.get(name) not in (None, "")}
    said = {name: value for name, value in said.items() if value == value}  # NaN: not known
    return json.dumps(said) if said else ""


def _known(workspace: Workspace) -> dict[str, Any]:
    columns = ["scan_id", "state", "version", "shard_bytes", *OLD]
    try:
        rows = ledger.read_ledger(workspace, columns=columns, started=True)
    except StageError as error:
        if error.code != "missing":
            raise
        return {}
    rows = rows.astype(object).where(rows.notna(), None)
    return {row.scan_id: row for row in rows.itertuples()}


def _cause(old: Any, subject_id: str, found: str, sizes: dict[str, int]) -> str:
    """Why a scan with unchanged settings is prepared again; empty if it is not."""
    if old.code in TRANSIENT or old.code in BEYOND_LIMITS:
        return f"retry: {old.code}"
    if old.subject_id != subject_id:
        return "subject"
    if found and old.fingerprint != found:  # empty: the source cannot be reached, and its results stay
        return "input"
    if old.state == ledger.STARTED:
        return "interrupted"
    if old.shard_bytes and sizes.get(layout.shard(old.scan_id)[-1]) != old.shard_bytes:
        return "shard"
    return ""


def _changed_settings(workspace: Workspace, old: tuple[str, str], wanted: str, atlas_hash: str) -> str:
    """The cause "settings: ..." or "atlas", in words that name the keys; empty if nothing changed."""
    if old[0] == wanted:
        return ""
    before = _flat(read_settings(workspace, old[0]).get("prepare", {}), "prepare")
    after = _flat(read_settings(workspace, wanted)["prepare"], "prepare")
    keys = sorted(before | after) if before else []
    changed = [key for key in keys if before.get(key) != after.get(key)]
    words = [f"{key} changed from {before.get(key)!r} to {after.get(key)!r}" for key in changed[:3]]
    words += [f"and {len(changed) - 3} more keys"] if len(changed) > 3 else []
    if old[1] not in (atlas_hash, "None"):
        words = ["the atlas changed", *words]
        if len(words) == 1:
            return "atlas"
    return f"settings: {', '.join(words)}" if words else "settings"


def _flat(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}") if isinstance(value, dict) else {f"{prefix}.{key}": value}
    return flat
