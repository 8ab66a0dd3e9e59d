"""Encodes groups of scans in a worker process, and writes their vectors.

A group is read by blocks of locations, so that the location-conditioned kernels are computed once a location for all of
its scans.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.config.training import EmbedConfig
from ctplatform.dataset import shards
from ctplatform.dataset.atlas import read_atlas
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
)
from ctplatform.inference.pooling import STANDARDISED, Pooling, pool
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import ray

    from drasclr.encoder import Encoder

logger = logging.getLogger(__name__)
# Blocks of about so many patches are encoded together: arranging the weights costs as much as a few dozen patches.
PATCHES_PER_CALL = 600


class Embedder:
    """Embeds groups of scans and writes their vectors; keeps the encoders between calls.

    Args:
        workspace: holds ledger, shards and the run's weights; receives the vectors.
        recipe: `embed` has the settings.
        run: the pretraining run.
        control: the random encoder; None: it is made here when it is needed.
    """

    def __init__(
        self,
        workspace: Workspace,
        recipe: Recipe,
        run: str,
        control: ray.ObjectRef[Encoder] | None = None,
    ) -> None:
        import torch

        self.workspace, self.recipe, self.run, self.control = workspace, recipe, run, control
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
            elif self.control is not None:
                import ray

                encoder = ray.get(self.control)
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
            group = group_name(scans, self.recipe.embed) if scans else ""
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
            group = group or group_name(kept, self.recipe.embed, identity(target))
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
        self.workspace.write_table(patients, *scan_file(self.run, name, group))


def scan_file(run: str, encoder: str, group: str) -> tuple[str, ...]:
    return layout.scan_vectors(run, encoder, group)


def _stored(pooling: Pooling) -> Pooling:
    """Pooling of the vectors of a group of scans: what is standardised needs the vectors of all training scans."""
    return "mean" if pooling in STANDARDISED else pooling


def group_name(group: list[dict[str, str]], config: EmbedConfig, identity: str = "") -> str:
    """`identity` is that of an own encoder, empty of the platform's."""
    content = [f"{scan['scan_id']} {scan['content_hash']}" for scan in group]
    own = [_stored(config.pooling), *([config.features] if config.features != "last" else [])]
    return config_hash("|".join(content), *own, *([identity] if identity else []))


def _vectors(vectors_ND: np.ndarray) -> pa.Array:
    values = pa.array(np.ascontiguousarray(vectors_ND, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, vectors_ND.shape[1])
