"""Standardised vectors of patients, and the statistics that they need, kept in the model's folder.

`pretrain/<run>/representation.safetensors` holds `mean_ND` and `spread_ND`, float32: mean and standard deviation of
each of D features at each of N locations over the scans that the encoder was trained on. With them, the features and
the pooling that its metadata names, and the places of the model's atlas, the vectors of a scan's patches become the
vector of any new patient (`pooling.pool`).

Legend: S scans, N locations, D features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ctplatform.config.recipe import Recipe
from ctplatform.config.training import EmbedConfig
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.inference.pooling import LocationStatistics, pool
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace
from ctplatform.training.runs import training_rows

PRETRAINED = "drasclr"


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics as a model's folder holds them.

    Args:
        statistics: of D features at N locations.
        features: of which features, as `embed.features`.
        digest: SHA-256 of the file.
    """

    statistics: LocationStatistics
    features: str
    digest: str

    @classmethod
    def parsed(cls, data: bytes) -> StoredStatistics:
        """The content of `representation.safetensors`.

        Raises:
            StageError: it is damaged.
        """
        import safetensors
        from safetensors.numpy import load

        try:
            arrays = load(data)
            statistics = LocationStatistics(arrays["mean_ND"], arrays["spread_ND"])
            metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            features = str(metadata["features"])
        except (KeyError, ValueError, safetensors.SafetensorError) as error:
            raise StageError(
                f"{layout.REPRESENTATION_FILE} of these weights cannot be read: {error}",
                "Copy the whole folder again",
                code="weights",
            ) from None
        return cls(statistics, features, hashlib.sha256(data).hexdigest())


def standardised_patients(
    workspace: Workspace, recipe: Recipe, *, run: str, encoder: str, groups: Sequence[str]
) -> pa.Table:
    """Patients' vectors of one encoder (scan_id, subject_id, vector), from the vectors of all patches.

    Groups of scans are read one after the other, twice: for the statistics of the training scans, then for the vectors.
    Those of the pretrained encoder are written to the model's folder.

    Raises:
        StageError: no training scan has been embedded.
    """
    trained = set(training_rows(workspace, recipe)["scan_id"])

    def of_training() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for group in groups:
            scans, vectors_SND, inside_SN = read_group(workspace, run, encoder, group)
            rows = [row for row, scan in enumerate(scans) if scan in trained]
            if rows:
                yield vectors_SND[rows], inside_SN[rows]

    statistics = LocationStatistics.over(of_training())
    if statistics is None:
        raise StageError(
            f"no training scan of run {run} has been embedded; pooling={recipe.embed.pooling} needs their statistics",
            "Run the stages from `split` on again, or set embed.pooling=mean",
            code="missing",
        )
    if encoder == PRETRAINED:
        _write(workspace, run, statistics, recipe.embed, scans=len(trained))
    centres_mm_N3 = read_atlas(workspace).centres_mm_N3
    tables = []
    for group in groups:
        _, vectors_SND, inside_SN = read_group(workspace, run, encoder, group)
        pooled_SP = pool(vectors_SND, inside_SN, recipe.embed.pooling, statistics, centres_mm_N3)
        values = pa.array(pooled_SP.ravel())
        vectors = pa.FixedSizeListArray.from_arrays(values, pooled_SP.shape[1])
        means = workspace.read_table(*layout.scan_vectors(run, encoder, group))
        tables.append(means.set_column(means.schema.get_field_index("vector"), "vector", vectors))
    return pa.concat_tables(tables)


def read_group(
    workspace: Workspace, run: str, encoder: str, group: str
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Scans of a group, the vectors of their patches [S, N, D], and the part of each inside its scan [S, N]."""
    table = workspace.read_table(*layout.patch_vectors(run, encoder, group))
    vectors = table.column("vector").combine_chunks()
    width = vectors.type.list_size
    count = int(table.column("location").to_numpy().max()) + 1
    scans = table.column("scan_id").to_pylist()[::count]
    return (
        scans,
        vectors.values.to_numpy().reshape(len(scans), count, width),
        table.column("inside").to_numpy().reshape(len(scans), count),
    )


def read_statistics(workspace: Workspace, run: str) -> LocationStatistics:
    """The statistics in a run's model folder."""
    return StoredStatistics.parsed(workspace.read_bytes(*layout.representation(run))).statistics


def _write(
    workspace: Workspace, run: str, statistics: LocationStatistics, config: EmbedConfig, *, scans: int
) -> None:
    from safetensors.numpy import save

    arrays = {"mean_ND": statistics.mean_ND, "spread_ND": statistics.spread_ND}
    metadata = {"features": config.features, "pooling": config.pooling, "scans": str(scans)}
    workspace.write_bytes(save(arrays, metadata=metadata), *layout.representation(run))
