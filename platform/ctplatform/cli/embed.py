"""`drasclr embed SCAN...`: vectors of given scans from given weights, into one file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.cohort.given_scans import LISTED, given_scans
from ctplatform.config.cluster import RayConfig
from ctplatform.errors import StageError
from ctplatform.inference.scan_list import EmbedOptions, embed_here, embed_on_ray
from ctplatform.inference.vector_files import PatchFile, check_output, replacing, write_vectors
from ctplatform.storage.layout import PNG

if TYPE_CHECKING:
    from ctplatform.inference.scan_embedding import EmbeddedScan
    from drasclr.encoder import Encoder

MAX_LINES = 20


@dataclass(frozen=True)
class EmbedCommand:
    """Arguments of the command.

    Attributes:
        sources: files, folders, URIs, scan tables.
        weights: folder, Hub id or URI of the weights.
        output: .parquet, .csv or .npz.
        atlas: folder of the atlas, for weights that were saved without it.
        patches: also the vectors of all patches, .parquet.
        overlays: folder for a picture a scan.
        options: how scans are embedded.
        workers: scans at a time; 1: in this process; None: this process for one scan, else all CPUs of Ray.
        address: of a Ray cluster.
        quiet: no progress on the terminal.
    """

    sources: tuple[str, ...]
    weights: str
    output: str
    atlas: str | None = None
    patches: str | None = None
    overlays: str | None = None
    options: EmbedOptions = field(default_factory=EmbedOptions)
    workers: int | None = None
    address: str | None = None
    quiet: bool = False


def embed_given(command: EmbedCommand) -> dict[str, Any]:
    """Embed the scans and write the files; what `drasclr embed --json` prints.

    Raises:
        StageError: the weights cannot be used, or an output cannot be written.
        CohortError: a scan table or folder cannot be used.
    """
    start = time.monotonic()
    output = check_output(command.output)
    patches = check_output(command.patches, (".parquet",)) if command.patches else None
    overlays = Path(command.overlays).expanduser() if command.overlays else None
    if overlays:
        overlays.mkdir(parents=True, exist_ok=True)
    ray_config = RayConfig.model_validate({"address": command.address})
    given = given_scans(command.sources, ray_config=ray_config)
    if not command.quiet:
        for line in given.passed_over:
            print(f"passed over  {line}", file=sys.stderr)
    items = given.table.to_dict("records")
    model = load_model(command.weights, atlas=command.atlas)
    loaded = time.monotonic()
    found: list[EmbeddedScan | None] = [None] * len(items)
    with contextlib.ExitStack() as stack:
        patch_file = None
        if patches:
            patch_file = PatchFile(stack.enter_context(replacing(patches)))
        for done, (number, scan) in enumerate(_results(stack, model, items, command, ray_config), 1):
            item = items[number]
            if not item[LISTED]:
                scan.row["path"] = item["path"]
            if patch_file:
                patch_file.add(scan)
            if overlays and scan.embedding and scan.embedding.overlay:
                (overlays / f"{item['scan_id']}{PNG}").write_bytes(scan.embedding.overlay)
            found[number] = scan if output.suffix == ".npz" else without_patches(scan)
            if not command.quiet and len(items) > 1:
                print(f"\r{done}/{len(items)}", end="\n" if done == len(items) else "", file=sys.stderr)
        if patch_file:
            patch_file.close()
    scans = [scan for scan in found if scan]
    write_vectors(output, scans)
    names = ("scan_id", "subject_id", "path", "state", "reason", "remedy", "code")
    return {
        "output": str(output),
        "patches": str(patches) if patches else None,
        "overlays": str(overlays) if overlays else None,
        "weights": command.weights,
        "with_vectors": sum(scan.has_vectors for scan in scans),
        "counts": dict(Counter(scan.row["state"] for scan in scans)),
        "seconds": {"start": round(loaded - start, 3), "scans": round(time.monotonic() - loaded, 3)},
        "scans": [{name: scan.row[name] for name in names if name in scan.row} for scan in scans],
    }


def result_lines(result: dict[str, Any]) -> Iterator[str]:
    """The same as lines of text."""
    bad = [scan for scan in result["scans"] if scan["state"] != "accepted"]
    for scan in bad[:MAX_LINES]:
        yield (
            f"  {scan.get('path', scan['scan_id'])}  {scan['state']}: {scan['reason']}. {scan['remedy']}".rstrip(
                ". "
            )
            + "."
        )
    if len(bad) > MAX_LINES:
        yield f"  ... and {len(bad) - MAX_LINES} more; all of them in the column `reason` of {result['output']}"
    counts = ", ".join(f"{count} {state}" for state, count in result["counts"].items())
    yield f"{counts}; vectors of {result['with_vectors']} scan(s) -> {result['output']}"


def load_model(weights: str, *, atlas: str | None = None) -> Encoder:
    """The encoder of given weights, with its atlas.

    Raises:
        StageError: there are none, they are damaged, or they do not fit the atlas.
    """
    import drasclr

    try:
        return drasclr.load(weights, atlas=atlas)
    except (FileNotFoundError, ValueError) as error:
        raise StageError(
            str(error), "Give a folder, Hub id or URI with weights.safetensors and card.json", code="weights"
        ) from None


def without_patches(scan: EmbeddedScan) -> EmbeddedScan:
    """The row and the pooled vector alone: all that a table of many scans needs."""
    import dataclasses

    if scan.embedding is None:
        return scan
    small = dataclasses.replace(scan.embedding, patches_NP=None, overlay=None)
    return dataclasses.replace(scan, embedding=small)


def _results(
    stack: contextlib.ExitStack,
    model: Encoder,
    items: list[dict[str, Any]],
    command: EmbedCommand,
    ray_config: RayConfig,
) -> Iterator[tuple[int, EmbeddedScan]]:
    if command.workers == 1 or (command.workers is None and len(items) == 1):
        return embed_here(model, items, command.options)
    from ctplatform.compute.session import ray_session

    stack.enter_context(ray_session(ray_config))
    return embed_on_ray(model, items, command.options, workers=command.workers)
