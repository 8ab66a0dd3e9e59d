"""Batch inference with Ray Data: a vector for every patch, and one for every scan.

An item is a group of scans, read by blocks of locations so that the location-conditioned kernels are computed once a
location for all of them. Beside the pretrained encoder a random one of the same architecture is embedded: the control
that shows how much of a result is learned.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.compute.placement import ray_options
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.config.training import EmbedConfig
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.inference.encoders import load_encoder, random_encoder
from ctplatform.inference.encoding import coordinates_of, encode_patches
from ctplatform.inference.own_encoder import (
    PatchEncoder,
    VolumeEncoder,
    checked,
    encoding,
    identity,
    own_encoder,
    scan_volume,
    with_paths,
)
from ctplatform.inference.patient_vectors import standardised_patients
from ctplatform.inference.pooling import STANDARDISED, Pooling, pool
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE, PRETRAIN
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from drasclr.encoder import Encoder

logger = logging.getLogger(__name__)
# Blocks of about so many patches are encoded together: arranging the weights costs as much as a few dozen patches.
PATCHES_PER_CALL = 600


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
    import ray

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
            "group": _group_name(group, config, owned.get(encoder, "")),
            "scans": json.dumps(group),
        }
        for encoder in encoders
        for group in groups
    ]
    todo = [item for item in items if not workspace.exists(*_scan_file(run, item["encoder"], item["group"]))]
    written = {(item["encoder"], item["group"]): item["group"] for item in items}
    left_out: dict[str, str] = {}
    if todo:
        dataset: ray.data.Dataset = ray.data.from_items(todo, override_num_blocks=len(todo))
        workers = min(config.num_workers, len(todo))
        if (
            config.use_gpu
        ):  # a task that uses a GPU ends its worker process: only actors keep the weights on it
            dataset = dataset.map(
                Embedder,  # type: ignore[arg-type]  # ray.data takes a class and makes actors of it
                fn_constructor_args=(workspace, recipe, run),
                compute=ray.data.ActorPoolStrategy(size=workers),
                num_gpus=config.gpus_per_worker,
                **ray_options(recipe.placement.embed),
            )
        else:
            dataset = dataset.map(
                _EmbedTask(workspace, recipe, run),
                compute=ray.data.TaskPoolStrategy(size=workers),
                num_cpus=1,
                **ray_options(recipe.placement.embed),
            )
        for done, row in enumerate(dataset.iter_rows(), 1):
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
                [workspace.read_table(*_scan_file(run, encoder, name)) for name in names]
            )
        workspace.write_table(patients, *layout.patient_vectors(run, encoder))
    return EmbedSummary(len(scans) - len(left_out), encoders, len(todo), time.monotonic() - start, left_out)


class Embedder:
    """Embeds groups of scans and writes their vectors; keeps the encoders between calls."""

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str) -> None:
        import torch

        self.workspace, self.recipe, self.run = workspace, recipe, run
        self.device = torch.device("cuda" if recipe.embed.use_gpu else "cpu")
        self.atlas = read_atlas(workspace)
        self.encoders: dict[str, Encoder] = {}
        self.own: dict[str, VolumeEncoder | PatchEncoder] = {}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        name = item["encoder"]
        if name in self.recipe.sweep.encoders:
            return self._own(item)
        if name not in self.encoders:
            if name == "drasclr":
                encoder = load_encoder(self.workspace, self.run, hu_window=self.recipe.prepare.hu_window)
            else:
                encoder = random_encoder(self.workspace, self.recipe)
            self.encoders[name] = encoder.to(self.device).eval()
        scans, group = json.loads(item["scans"]), item["group"]
        left_out: dict[str, str] = {}
        try:
            vectors_SND, inside_SN = self.encode(self.encoders[name], [scan["scan_id"] for scan in scans])
        except Exception:
            left_out = self._unreadable([scan["scan_id"] for scan in scans])
            if not left_out:
                raise
            scans = [scan for scan in scans if scan["scan_id"] not in left_out]
            # Under the name of those that are left: the whole group stays unfinished, and is tried again.
            group = _group_name(scans, self.recipe.embed) if scans else ""
            if scans:
                vectors_SND, inside_SN = self.encode(self.encoders[name], [scan["scan_id"] for scan in scans])
        if scans:
            self._write(name, group, scans, vectors_SND, inside_SN)
        return {
            "encoder": name,
            "group": item["group"],
            "written": group,
            "left_out": json.dumps(left_out),
        }

    def _own(self, item: dict[str, Any]) -> dict[str, Any]:
        """A group of scans by an encoder of the user's own."""
        name, scans = item["encoder"], json.loads(item["scans"])
        target = self.recipe.sweep.encoders[name]
        if name not in self.own:
            self.own[name] = own_encoder(target)
        encoder, left_out, kept = self.own[name], {}, []
        vectors: list[np.ndarray] = []
        inside: list[np.ndarray] = []
        for scan in scans:
            try:
                if isinstance(encoder, VolumeEncoder):
                    volume = scan_volume(scan)
                else:
                    locations_N, hu_NDHW, inside_N = self._patches(scan["scan_id"])
            except Exception as error:  # of a damaged file, a reader may raise anything
                logger.warning("%s cannot be read: %s", scan["scan_id"], type(error).__name__)
                left_out[scan["scan_id"]] = getattr(error, "problem", f"an unexpected {type(error).__name__}")
                continue
            with encoding(target, scan["scan_id"]):
                if isinstance(encoder, VolumeEncoder):
                    vectors.append(checked(encoder.encode_volume(*volume), target=target))
                else:
                    coordinates_N3 = np.asarray(self.atlas.coordinates_N3[locations_N], np.float32)
                    found = encoder.encode_patches(hu_NDHW, coordinates_N3)
                    vectors.append(checked(found, target=target, count=len(hu_NDHW)))
                    inside.append(inside_N)
            kept.append(scan)
        group = item["group"] if not left_out else ""
        if kept:
            # Under the name of those that are left: the whole group stays unfinished, and is tried again.
            group = group or _group_name(kept, self.recipe.embed, identity(target))
            if inside:
                self._write(name, group, kept, np.stack(vectors), np.stack(inside))
            else:
                self._write_patients(name, group, kept, np.stack(vectors))
        return {
            "encoder": name,
            "group": item["group"],
            "written": group,
            "left_out": json.dumps(left_out),
        }

    def _patches(self, scan_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(locations [N], patches int16 [N, D, H, W], share of each inside the scan [N]) of a whole scan, sorted."""
        footers = [shards.footer_of(self.workspace, scan_id)]
        here_N, hu_NSDHW, inside_NS = self._read([scan_id], footers, range(self.atlas.num_blocks))
        order = np.argsort(here_N)
        return here_N[order], hu_NSDHW[order, 0], inside_NS[order, 0]

    def _unreadable(self, scan_ids: list[str]) -> dict[str, str]:
        """Scans whose shards cannot be read, and why."""
        found = {}
        for scan in scan_ids:
            try:
                footer = shards.footer_of(self.workspace, scan)
                for index in range(self.atlas.num_blocks):
                    shards.read_block(self.workspace, scan, index, footer=footer)
            except Exception as error:  # of a damaged file, a reader may raise anything
                logger.warning("the shard of %s cannot be read: %s", scan, type(error).__name__)
                found[scan] = getattr(error, "problem", f"an unexpected {type(error).__name__}")
        return found

    def encode(self, encoder: Encoder, scan_ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Features of all locations: vectors_SND float32; inside_SN float32, the part of each patch inside the scan."""
        count = self.atlas.num_locations
        coordinates_N3 = coordinates_of(self.atlas)
        vectors: np.ndarray | None = None
        inside_SN = np.zeros((len(scan_ids), count), np.float32)
        footers = [shards.footer_of(self.workspace, scan) for scan in scan_ids]
        blocks_per_call = max(1, PATCHES_PER_CALL * self.atlas.num_blocks // (count * len(scan_ids)))
        for start in range(0, self.atlas.num_blocks, blocks_per_call):
            here_L, hu_LSDHW, inside_LS = self._read(
                scan_ids, footers, range(start, min(start + blocks_per_call, self.atlas.num_blocks))
            )
            features_LSD = encode_patches(
                encoder,
                hu_LSDHW,
                coordinates_N3[here_L],
                hu_window=self.recipe.prepare.hu_window,
                features=self.recipe.embed.features,
            )
            if vectors is None:
                vectors = np.zeros((len(scan_ids), count, features_LSD.shape[-1]), np.float32)
            vectors[:, here_L] = features_LSD.swapaxes(0, 1)
            inside_SN[:, here_L] = inside_LS.T
        assert vectors is not None
        return vectors, inside_SN

    def _read(
        self, scan_ids: list[str], footers: list[pq.FileMetaData], blocks: range
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(locations of some blocks, their patches int16 [L, S, D, H, W], share of each inside its scan [L, S])."""
        here, hu, inside = [], [], []
        for index in blocks:
            read = [
                shards.read_block(self.workspace, scan, index, footer=footer)
                for scan, footer in zip(scan_ids, footers, strict=True)
            ]
            home = read[0].home_N
            here.append(read[0].locations_N[home])
            hu.append(np.stack([block.hu_NDHW[home] for block in read], axis=1))
            inside.append(np.stack([block.inside_N[home] for block in read], axis=1))
        return np.concatenate(here), np.concatenate(hu), np.concatenate(inside)

    def _write(
        self,
        name: str,
        group: str,
        scans: list[dict[str, str]],
        vectors_SND: np.ndarray,
        inside_SN: np.ndarray,
    ) -> None:
        count = self.atlas.num_locations
        patches = pa.table(
            {
                "scan_id": pa.array(np.repeat([s["scan_id"] for s in scans], count)).dictionary_encode(),
                "location": np.tile(np.arange(count, dtype=np.int32), len(scans)),
                "inside": inside_SN.ravel(),
                "vector": _vectors(vectors_SND.reshape(len(scans) * count, -1)),
            }
        )
        self.workspace.write_table(patches, *layout.patch_vectors(self.run, name, group))
        # Last: the existence of this file marks the group as finished.
        pooled_SP = pool(vectors_SND, inside_SN, _stored(self.recipe.embed.pooling))
        self._write_patients(name, group, scans, pooled_SP)

    def _write_patients(
        self, name: str, group: str, scans: list[dict[str, str]], vectors_SP: np.ndarray
    ) -> None:
        patients = pa.table(
            {
                "scan_id": [s["scan_id"] for s in scans],
                "subject_id": [s["subject_id"] for s in scans],
                "vector": _vectors(vectors_SP),
            }
        )
        self.workspace.write_table(patients, *_scan_file(self.run, name, group))


class _EmbedTask:
    """An `Embedder` for tasks: the worker process keeps it for the next task."""

    def __init__(self, workspace: Workspace, recipe: Recipe, run: str) -> None:
        self.arguments = (workspace, recipe.model_dump_json(), run)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        return _embedder(*self.arguments)(item)


@lru_cache(maxsize=1)
def _embedder(workspace: Workspace, recipe_json: str, run: str) -> Embedder:
    return Embedder(workspace, Recipe.model_validate_json(recipe_json), run)


def _scan_file(run: str, encoder: str, group: str) -> tuple[str, ...]:
    return layout.scan_vectors(run, encoder, group)


def _stored(pooling: Pooling) -> Pooling:
    """Pooling of the vectors of a group of scans: what is standardised needs the vectors of all training scans."""
    return "mean" if pooling in STANDARDISED else pooling


def _group_name(group: list[dict[str, str]], config: EmbedConfig, identity_: str = "") -> str:
    """`identity_` is that of an own encoder, empty of the platform's."""
    content = [f"{scan['scan_id']} {scan['content_hash']}" for scan in group]
    own = [_stored(config.pooling), *([config.features] if config.features != "last" else [])]
    return config_hash("|".join(content), *own, *([identity_] if identity_ else []))


def _vectors(vectors_ND: np.ndarray) -> pa.Array:
    values = pa.array(np.ascontiguousarray(vectors_ND, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, vectors_ND.shape[1])
