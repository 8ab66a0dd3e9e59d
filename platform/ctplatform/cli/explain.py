"""One scan from source to embeddings: all that the workspace holds of it, as plain values and as text.

The ledger, the shards and the embeddings contain nothing that identifies a patient: they name the source by its content
hash and a few values of its header, not by its path. The path is in the scan table, in the row of the scan_id.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from ctplatform.dataset import ledger, splits
from ctplatform.errors import StageError
from ctplatform.preparation.plan import NEW, cause_in_words, read_settings
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

_NEAR = 5


def explain(workspace: Workspace, scan_id: str) -> dict[str, Any]:
    """Everything about a scan as plain values: what `drasclr explain --json` prints.

    Raises:
        StageError: the workspace has no such scan; the message lists similar ids.
    """
    row = _row(workspace, scan_id)
    found: dict[str, Any] = {
        "scan_id": scan_id,
        "subject_id": row["subject_id"],
        "part": _part(workspace, row["subject_id"]),
        "source": {
            **json.loads(row["source"] or "{}"),
            "content_hash": row["content_hash"],
            "fingerprint": row["fingerprint"],
            "notes": row["notes"],
        },
        "verdict": {name: row[name] for name in ("state", "code", "reason", "remedy")},
        "preparation": {
            **{n: row[n] for n in ("version", "cause", "software", "config_hash", "atlas_hash", "committed")},
            **{n: row[n] for n in ("seconds", "cpu_seconds")},
            "steps": json.loads(row["steps"] or "{}"),
            "settings": read_settings(workspace, row["config_hash"] or "").get("prepare", {}),
        },
        "measures": json.loads(row["measures"] or "{}"),
        "affine": row["affine"],
    }
    overlay = layout.overlay(scan_id)
    found["overlay"] = workspace.display(*overlay) if workspace.exists(*overlay) else ""
    found["shard"] = _shard(workspace, row)
    found["embeddings"] = list(_embeddings(workspace, scan_id))
    return found


def explain_lines(found: dict[str, Any]) -> Iterator[str]:
    """The same as lines of text."""
    source, verdict, made = found["source"], found["verdict"], found["preparation"]
    part = f", a {found['part']} subject" if found["part"] else ""
    yield f"{found['scan_id']} of {found['subject_id']}{part}"
    yield ""
    size = " x ".join(str(n) for n in source.get("size", ()))
    spacing = " x ".join(f"{s:g}" for s in source.get("spacing_mm", ()))
    words = [source.get("format"), size and f"{size} voxels", spacing and f"{spacing} mm"]
    words += [source.get("manufacturer"), source.get("kernel") and f"kernel {source['kernel']}"]
    yield _line("source", ", ".join(word for word in words if word) or "could not be read")
    yield _line("content", _hash(source["content_hash"]))
    yield _line("fingerprint", source["fingerprint"] or "none: its files could not be seen")
    yield _line("path", "in your scan table only, in the row of this scan_id")
    if source["notes"]:
        yield _line("noted", source["notes"])
    yield _line("verdict", verdict["state"] + (f": {verdict['reason']}" if verdict["reason"] else ""))
    if verdict["remedy"]:
        yield _line("", verdict["remedy"])
    if found["overlay"]:
        yield _line("picture", found["overlay"])
    yield ""
    cause = made["cause"] or ""
    why = "new" if cause in ("", NEW) else f"again, because {cause_in_words(cause)}"
    yield _line("prepared", f"{_time(made['committed'])}, time {made['version'] or 1} ({why})")
    yield _line("software", f"drasclr {made['software']}, settings {made['config_hash']}")
    yield _line("atlas", made["atlas_hash"] or "")
    steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in made["steps"].items())
    if steps:
        yield _line("CPU-seconds", f"{made['cpu_seconds']:.2f}: {steps}")
    if found["measures"]:
        yield ""
        yield from _columns("measures", [f"{k} {v:.4g}" for k, v in sorted(found["measures"].items())])
    if found["affine"]:
        yield ""
        for i, four in enumerate(np.reshape(found["affine"], (4, 4))):
            numbers = "  ".join(f"{value:10.4f}" for value in four)
            yield _line(
                "affine" if i == 0 else "", numbers + ("   atlas mm -> scan mm, LPS" if i == 0 else "")
            )
    yield ""
    yield from _shard_lines(found["shard"])
    for item in found["embeddings"]:
        yield ""
        text = f"run {item['run']}, encoder {item['encoder']}"
        yield _line("embedding", f"{text}: {item['patches']} vectors of {item['dimension']}")
        for file in item["files"]:
            yield _line("", file)
        if item["weights"]:
            yield _line("", item["weights"])
    if not found["embeddings"]:
        yield _line("embeddings", "none yet")


def _row(workspace: Workspace, scan_id: str) -> dict[str, Any]:
    ids = ledger.read_ledger(workspace, columns=["scan_id", "state"], started=True)
    known = dict(zip(ids["scan_id"], ids["state"], strict=True))
    if scan_id not in known:
        near = _near(scan_id, list(known))
        raise StageError(
            f"{workspace.display(layout.SCANS)} has no scan {scan_id!r}",
            f"Did you mean {', '.join(near)}"
            if near
            else f"It holds {len(known)} scans, such as {', '.join(sorted(known)[:5])}; column scan_id of the cohort "
            "table has all",
            code="no-such-scan",
        )
    if known[scan_id] == ledger.STARTED:
        raise StageError(
            f"the preparation of {scan_id} was renewed and has not ended",
            "Wait for the run that does it, or run `drasclr prepare` again",
            code="started",
        )
    rows = ledger.read_ledger(workspace)
    row: dict[str, Any] = rows[rows["scan_id"] == scan_id].iloc[0].to_dict()
    plain = {name: value for name, value in row.items() if not np.ndim(value)}
    empty = {name for name, value in plain.items() if value is None or value != value}
    texts = dict.fromkeys(("source", "measures", "steps", "reason", "remedy", "notes", "code", "cause"), "")
    row |= {name: texts.get(name) for name in empty}
    row["affine"] = [] if row["affine"] is None else [float(v) for v in row["affine"]]
    return row


def _near(scan_id: str, known: list[str]) -> list[str]:
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(scan_id.casefold(), folded, n=_NEAR, cutoff=0.6)
    inside = [name for name in sorted(folded) if scan_id and scan_id.casefold() in name]
    return [folded[name] for name in dict.fromkeys([*close, *inside])][:_NEAR]


def _part(workspace: Workspace, subject_id: str) -> str:
    if not workspace.exists(layout.SPLITS_FILE):
        return ""
    split = splits.read_split(workspace)
    return "training" if subject_id in split.train else "test" if subject_id in split.test else ""


def _shard(workspace: Workspace, row: dict[str, Any]) -> dict[str, Any]:
    """File, state and row groups; {} where there is none and should be none."""
    parts = layout.shard(row["scan_id"])
    if not row["shard_bytes"]:
        return {}
    found: dict[str, Any] = {"file": workspace.display(*parts), "bytes": int(row["shard_bytes"])}
    size = {info.base_name: info.size for info in workspace.infos(layout.PATCHES)}.get(parts[-1])
    if size != found["bytes"]:
        state = "missing" if size is None else f"{size} bytes long instead of {found['bytes']}"
        return found | {"problem": f"the file is {state}; run `drasclr prepare` again", "row_groups": []}
    with workspace.fs.open_input_file(workspace.path(*parts)) as stream:
        file = pq.ParquetFile(stream)
        texts = {k.decode(): v.decode() for k, v in (file.schema_arrow.metadata or {}).items()}
        groups = [
            _group(file.metadata.row_group(i), file.schema_arrow.names) for i in range(file.num_row_groups)
        ]
    same = texts.get("drasclr.content_hash") == row["content_hash"]
    return found | {
        "problem": "" if same else "the shard was made of other voxels than the ledger says",
        "metadata": {k.removeprefix("drasclr."): v for k, v in texts.items() if k.startswith("drasclr.")},
        "row_groups": groups,
    }


def _group(group: pq.RowGroupMetaData, names: list[str]) -> dict[str, int]:
    columns = [group.column(i) for i in range(group.num_columns)]
    block = columns[names.index("block")].statistics
    start = min(c.dictionary_page_offset or c.data_page_offset for c in columns)
    return {
        "block": int(block.min) if block else -1,
        "rows": group.num_rows,
        "offset": int(start),
        "bytes": int(sum(c.total_compressed_size for c in columns)),
    }


def _embeddings(workspace: Workspace, scan_id: str) -> Iterator[dict[str, Any]]:
    for run in workspace.folders(layout.EMBEDDINGS):
        by_encoder: dict[str, dict[str, Any]] = {}
        for parts in _embedding_files(workspace, run):
            path = workspace.path(*parts)
            data = pads.dataset(path, filesystem=workspace.fs, format="parquet")
            if "vector" not in data.schema.names:
                continue
            rows = data.to_table(columns=["vector"], filter=pc.field("scan_id") == scan_id)
            if not rows.num_rows:
                continue
            encoder = parts[-1].removesuffix(layout.PARQUET)
            encoder = (
                encoder.removeprefix(layout.PATIENT_VECTORS)
                if parts[-2] == run
                else encoder.rpartition("-")[0]
            )
            item = by_encoder.setdefault(
                encoder, {"run": run, "encoder": encoder, "patches": 0, "dimension": 0, "files": []}
            )
            item["files"].append(workspace.display(*parts))
            item["dimension"] = len(rows["vector"][0])
            item["patches"] += rows.num_rows if parts[-2] == layout.PATCH_VECTORS else 0
        weights = _weights(workspace, run) if "drasclr" in by_encoder else ""
        for encoder, item in sorted(by_encoder.items()):
            yield item | {"weights": weights if encoder == "drasclr" else ""}


def _weights(workspace: Workspace, run: str) -> str:
    parts = layout.weights(run)
    if not workspace.exists(*parts):
        return ""
    return f"{workspace.display(*parts)}, sha256 {hashlib.sha256(workspace.read_bytes(*parts)).hexdigest()}"


def _embedding_files(workspace: Workspace, run: str) -> Iterator[tuple[str, ...]]:
    for folder in ((layout.EMBEDDINGS, run), (layout.EMBEDDINGS, run, layout.PATCH_VECTORS)):
        for name in workspace.files(*folder, suffix=layout.PARQUET):
            yield (*folder, name)


def _shard_lines(shard: dict[str, Any]) -> Iterator[str]:
    if not shard:
        yield _line("shard", "none")
        return
    yield _line("shard", f"{shard['file']}, {shard['bytes']:,} bytes, {len(shard['row_groups'])} row groups")
    if shard["problem"]:
        yield _line("", shard["problem"])
    for group in shard["row_groups"]:
        yield _line(
            "",
            f"block {group['block']}: {group['rows']} patches, {group['bytes']:,} bytes at {group['offset']:,}",
        )


def _columns(name: str, cells: list[str], *, wide: int = 3) -> Iterator[str]:
    for start in range(0, len(cells), wide):
        text = "".join(f"{cell:<28}" for cell in cells[start : start + wide]).rstrip()
        yield _line(name if start == 0 else "", text)


def _line(name: str, text: str) -> str:
    return f"{name:<12} {text}".rstrip()


def _hash(value: str | None) -> str:
    return f"sha256 {value}" if value else "unknown"


def _time(committed_ns: int | None) -> str:
    if not committed_ns:
        return "at an unknown time"
    return datetime.fromtimestamp(committed_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
