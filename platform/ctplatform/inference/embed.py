"""Batch inference with Ray Data: a vector for every patch, and one for every scan.

An item is a group of scans. Beside the pretrained encoder a random one of the same architecture is embedded: the
control that shows how much of a result is learned.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ctplatform.compute.placement import ray_options
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.errors import StageError
from ctplatform.inference.embedder import Embedder, group_name, scan_file
from ctplatform.inference.encoders import random_encoder
from ctplatform.inference.own_encoder import VolumeEncoder, identity, own_encoder, with_paths
from ctplatform.inference.patient_vectors import standardised_patients
from ctplatform.inference.pooling import STANDARDISED
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE, PRETRAIN
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import ray

    from drasclr.encoder import Encoder


@dataclass(frozen=True)
class EmbedSummary:
    """The result of `embed`.

    Attributes:
        scans: number of scans that have vectors.
        encoders: names of the encoders that they are of.
        done: groups of scans that were embedded by this call, over all encoders.
        seconds: wall time of this call.
        left_out: scan_id -> why its shard could not be read; the next call tries it again.
    """

    scans: int
    encoders: tuple[str, ...]
    done: int
    seconds: float
    left_out: dict[str, str] = field(default_factory=dict)


def embed(
    workspace: Workspace,
    recipe: Recipe,
    *,
    run: str,
    cohort: pd.DataFrame | None = None,
    own: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbedSummary:
    """Embed every usable scan, training and test subjects alike, with each of the recipe's encoders.

    Writes `embeddings/<run>/patches/*.parquet` (scan_id, location, inside, vector) and
    `embeddings/<run>/patients-<encoder>.parquet` (scan_id, subject_id, vector). Finished groups of scans are kept. A
    standardised pooling also writes its statistics beside the weights (`patient_vectors`).

    Args:
        workspace: holds ledger, shards and the run's weights.
        recipe: `embed` has the settings.
        run: the pretraining run.
        cohort: scan table, with the paths that own encoders of whole scans need.
        own: also with the encoders of `sweep.encoders`.
        on_progress: called with (finished groups, all groups of this call).

    Raises:
        StageError: the run has no weights, they were trained on another atlas, not one shard can be read, or an own
            encoder cannot be used.
    """
    start = time.monotonic()
    config = recipe.embed
    columns = ["scan_id", "subject_id", "state", "content_hash"]
    rows = ledger.usable(
        ledger.read_ledger(workspace, columns=columns), use_flagged=recipe.prepare.quality.use_flagged
    )
    if not workspace.exists(PRETRAIN, run, CARD_FILE):
        raise StageError(f"run {run} has no weights", "Run `drasclr pretrain` first", code="missing")
    scans = rows.to_dict("records")
    owned = {name: identity(target) for name, target in recipe.sweep.encoders.items()} if own else {}
    encoders = (*config.encoders, *owned)
    if owned:
        scans = with_paths(scans, cohort)
    groups = [scans[i : i + config.scans_per_batch] for i in range(0, len(scans), config.scans_per_batch)]
    items = [
        {
            "encoder": encoder,
            "group": group_name(group, config, owned.get(encoder, "")),
            "scans": json.dumps(group),
        }
        for encoder in encoders
        for group in groups
    ]
    todo = [item for item in items if not workspace.exists(*scan_file(run, item["encoder"], item["group"]))]
    written = {(item["encoder"], item["group"]): item["group"] for item in items}
    left_out: dict[str, str] = {}
    for done, row in enumerate(_rows(todo, workspace, recipe, run), 1):
        written[row["encoder"], row["group"]] = row["written"]
        left_out |= json.loads(row["left_out"])
        if on_progress:
            on_progress(done, len(todo))
    for encoder in encoders:
        groups_written = [written[encoder, item["group"]] for item in items if item["encoder"] == encoder]
        names = [group for group in groups_written if group]
        if not names:
            scan, reason = next(iter(left_out.items()))
            raise StageError(
                f"no shard of {len(scans)} scans can be read; the first, of {scan}: {reason}",
                "Run `drasclr prepare` again",
                code="missing",
            )
        # Whole scans have no patches whose vectors could be standardised.
        whole = encoder in owned and isinstance(own_encoder(recipe.sweep.encoders[encoder]), VolumeEncoder)
        if config.pooling in STANDARDISED and not whole:
            patients = standardised_patients(workspace, recipe, run=run, encoder=encoder, groups=names)
        else:
            patients = pa.concat_tables(
                [workspace.read_table(*scan_file(run, encoder, name)) for name in names]
            )
        workspace.write_table(patients, *layout.patient_vectors(run, encoder))
    return EmbedSummary(len(scans) - len(left_out), encoders, len(todo), time.monotonic() - start, left_out)


def _rows(
    items: list[dict[str, str]], workspace: Workspace, recipe: Recipe, run: str
) -> Iterator[dict[str, Any]]:
    """What `Embedder` returns for each item, as it comes; those of the random encoder last.

    That encoder is made once for all workers, while they are at the others: its statistics take as long as the vectors
    of a dozen scans.
    """
    import ray

    random = [item for item in items if item["encoder"] == "random"]
    if random:
        make = ray.remote(num_cpus=1, **ray_options(recipe.placement.embed))(random_encoder)
        made = make.remote(workspace, recipe)
    yield from _rows_of(
        [item for item in items if item["encoder"] != "random"], workspace, recipe, run, control=None
    )
    if random:
        # Held by this process: no worker waits for a task that needs the node which the worker occupies.
        yield from _rows_of(random, workspace, recipe, run, control=ray.put(ray.get(made)))


def _rows_of(
    items: list[dict[str, str]],
    workspace: Workspace,
    recipe: Recipe,
    run: str,
    *,
    control: ray.ObjectRef[Encoder] | None,
) -> Iterator[dict[str, Any]]:
    import ray

    if not items:
        return
    config = recipe.embed
    dataset: ray.data.Dataset = ray.data.from_items(items, override_num_blocks=len(items))
    workers = min(config.num_workers, len(items))
    if config.use_gpu:  # a task that uses a GPU ends its worker process: only actors keep the weights on it
        dataset = dataset.map(
            Embedder,  # type: ignore[arg-type]  # ray.data takes a class and makes actors of it
            fn_constructor_args=(workspace, recipe, run, control),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_gpus=config.gpus_per_worker,
            **ray_options(recipe.placement.embed),
        )
    else:
        dataset = dataset.map(
            _EmbedTask(workspace, recipe, run, control),
            compute=ray.data.TaskPoolStrategy(size=workers),
            num_cpus=1,
            **ray_options(recipe.placement.embed),
        )
    yield from dataset.iter_rows()


class _EmbedTask:
    """An `Embedder` for tasks: the worker process keeps it for the next task."""

    def __init__(
        self, workspace: Workspace, recipe: Recipe, run: str, control: ray.ObjectRef[Encoder] | None
    ) -> None:
        self.arguments = (workspace, recipe.model_dump_json(), run, control)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return _embedder(*self.arguments)(item)


@lru_cache(maxsize=1)
def _embedder(
    workspace: Workspace, recipe_json: str, run: str, control: ray.ObjectRef[Encoder] | None
) -> Embedder:
    return Embedder(workspace, Recipe.model_validate_json(recipe_json), run, control)
