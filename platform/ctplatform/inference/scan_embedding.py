"""Vectors of single scans from given weights: from the file to the vector, without a workspace.

    import drasclr
    from ctplatform.inference import embed_scan

    model = drasclr.load("runs/demo/pretrain/RUN")
    result = embed_scan("scan.nii.gz", model)
    result.patient_P, result.patches_NP, result.verdict, result.affine

A scan is prepared as the card of the weights says, by the functions of the chain's stages `prepare` and `embed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform import __version__
from ctplatform.config.preparation import PrepareConfig
from ctplatform.errors import StageError
from ctplatform.inference.encoding import coordinates_of, encode_patches
from ctplatform.inference.patient_vectors import StoredStatistics
from ctplatform.inference.pooling import POOLINGS, STANDARDISED, pool
from ctplatform.preparation.scan import SampledScan, StepClock, failure, sample_scan
from ctplatform.storage.layout import REPRESENTATION_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from ctplatform.preparation.quality import Verdict
    from drasclr.encoder import Encoder

LOCATIONS = 200
"""Locations of one call of the encoder: what it does once a call is shared by many, and memory is bounded."""

_REMEDY = "Run `drasclr embed -v` on this scan alone, which shows the error"


@dataclass(frozen=True)
class ScanEmbedding:
    """One scan's vectors, and what was found on the way.

    Attributes:
        verdict: accepted, flagged or rejected, with reasons; as the chain's `prepare` judges.
        patient_P: float32, pooled over the locations inside the scan; None if the scan was rejected.
        patches_NP: float32, a vector a location of the atlas; None if the scan was rejected.
        inside_N: float32, fraction of each patch that lies in the scan.
        centres_mm_N3: where the patches were taken, LPS mm of the scan.
        affine: atlas LPS mm -> scan LPS mm, 4 x 4.
        overlay: PNG with mask, contour and locations, if it was drawn.
        fields: measures, source, content_hash and notes, as in the chain's ledger.
        steps: CPU-seconds of each step.
    """

    verdict: Verdict
    patient_P: np.ndarray | None
    patches_NP: np.ndarray | None
    inside_N: np.ndarray
    centres_mm_N3: np.ndarray
    affine: np.ndarray
    overlay: bytes | None
    fields: dict[str, Any]
    steps: dict[str, float]


@dataclass(frozen=True)
class EmbeddedScan:
    """A row for the scan, whatever came of it, and its vectors if it has any."""

    row: dict[str, Any]
    embedding: ScanEmbedding | None

    @property
    def has_vectors(self) -> bool:
        """Whether the scan could be read and was not rejected."""
        return self.embedding is not None and self.embedding.patient_P is not None


def embed_scan(
    path: str | Path,
    model: Encoder,
    *,
    series_uid: str = "",
    pooling: str | None = None,
    features: str | None = None,
    overlay: bool = False,
) -> ScanEmbedding:
    """The vectors of one scan.

    Args:
        path: a volume file, a DICOM file or folder, or the URI of one.
        model: as `drasclr.load` returns it, with its atlas; on the device where it is to run.
        series_uid: which series of a DICOM folder; empty: the best one.
        pooling: "mean" [128], "mean_std" [256], or, with weights that hold statistics of the training scans,
            "standardised" [128], "standardised_spread" [256] or "standardised_gradient" [384]; None: as the weights'
            card says.
        features: "last", or "multiscale" with 624 features a patch; None: as the weights' card says.
        overlay: draw the picture for quality control.

    Raises:
        ScanError: the scan cannot be read, or no lungs are found in it.
        StageError: the weights do not say how scans are prepared for them, have no atlas, or not the statistics that
            the pooling needs.
    """
    item = {"scan_id": "scan", "path": str(path), "series_uid": series_uid}
    return _embedder(model, pooling, features, overlay).embed(item)


@lru_cache(maxsize=1)
def _embedder(model: Encoder, pooling: str | None, features: str | None, overlays: bool) -> ScanEmbedder:
    return ScanEmbedder(model, pooling=pooling, features=features, overlays=overlays)


class ScanEmbedder:
    """Embeds scans one by one; what they have in common is computed once.

    Args:
        model: with its atlas.
        pooling: instead of the card's.
        features: instead of the card's.
        overlays: draw the pictures for quality control.

    Raises:
        StageError: the weights do not say how scans are prepared for them, have no atlas, or not the statistics that
            the pooling needs.
    """

    def __init__(
        self,
        model: Encoder,
        *,
        pooling: str | None = None,
        features: str | None = None,
        overlays: bool = False,
    ) -> None:
        from ctplatform.dataset.atlas import image_from_bytes
        from ctplatform.registration.template import Template

        if model.atlas is None or model.template is None:
            raise StageError(
                "these weights were saved without their atlas, so that where patches lie in a scan is not known",
                "Give the atlas's folder: `--atlas WORKSPACE/atlas`, or drasclr.load(..., atlas=FOLDER)",
                code="weights",
            )
        self.model, self.atlas = model, model.atlas
        self.config = preparation_of(model.card).model_copy(update={"overlays": overlays})
        self.pooling: Any = pooling or model.card.get("pooling", "mean")
        if self.pooling not in POOLINGS:
            raise StageError(f"pooling is not {self.pooling!r}", f"Use {', '.join(POOLINGS)}", code="usage")
        self.features = features or str(model.card.get("features", "last"))
        self.stored = self._statistics() if self.pooling in STANDARDISED else None
        self.template = Template.from_image(image_from_bytes(model.template), config=self.config.registration)
        self.coordinates_N3 = coordinates_of(self.atlas)

    def embed(self, item: dict[str, Any]) -> ScanEmbedding:
        """The vectors of one scan: scan_id, path, series_uid.

        Raises:
            ScanError: it cannot be used.
        """
        clock = StepClock()
        scan = self.sample(item, clock)
        patient_P = patches_NP = None
        if scan.verdict.state != "rejected":
            with clock.step("encode"):
                patches_NP = self.encode(scan.patches.hu_NDHW)
                statistics = self.stored.statistics if self.stored else None
                patient_P = pool(
                    patches_NP[None],
                    scan.patches.inside_N[None],
                    self.pooling,
                    statistics,
                    self.atlas.centres_mm_N3,
                )[0]
        return ScanEmbedding(
            verdict=scan.verdict,
            patient_P=patient_P,
            patches_NP=patches_NP,
            inside_N=scan.patches.inside_N,
            centres_mm_N3=scan.patches.centres_mm_N3,
            affine=np.asarray(scan.affine_44, np.float64),
            overlay=scan.overlay,
            fields=scan.fields,
            steps=clock.steps,
        )

    def sample(self, item: dict[str, Any], clock: StepClock | None = None) -> SampledScan:
        """The patches of one scan at all locations: scan_id, path, series_uid.

        Raises:
            ScanError: it cannot be used.
        """
        return sample_scan(item, self.config, self.atlas, self.template, clock or StepClock())

    def __call__(self, item: dict[str, Any]) -> EmbeddedScan:
        """A row and the vectors of one scan; an error of the scan ends in its row.

        Args:
            item: scan_id, subject_id, path, series_uid.
        """
        row = {
            "scan_id": item["scan_id"],
            "subject_id": item["subject_id"],
            "reason": "",
            "remedy": "",
            "code": "",
            "notes": "",
            "atlas_hash": self.atlas.hash,
            "weights": self.model.card.get("files", {}).get(WEIGHTS_FILE, ""),
            "pooling": self.pooling,
            "software": __version__,
        }
        try:
            found = self.embed(item)
        except StageError:
            raise
        except Exception as error:  # an unforeseen error of a library must not stop the other scans
            return EmbeddedScan(row | failure(error, item["scan_id"], remedy=_REMEDY), None)
        return EmbeddedScan(row | found.fields, found)

    def _statistics(self) -> StoredStatistics:
        """Of the scans that were trained on, from the weights' folder."""
        if self.model.representation is None:
            raise StageError(
                f"pooling {self.pooling!r} needs the statistics of the scans that were trained on, and the weights' "
                f"folder has no {REPRESENTATION_FILE}",
                "Run `drasclr embed --workspace` with this pooling, which writes it beside the weights, or use mean or "
                "mean_std",
                code="weights",
            )
        stored = StoredStatistics.parsed(self.model.representation)
        if stored.features != self.features or len(stored.statistics.mean_ND) != self.atlas.num_locations:
            raise StageError(
                f"the statistics of these weights are of features {stored.features!r} at "
                f"{len(stored.statistics.mean_ND)} locations, needed are {self.features!r} at "
                f"{self.atlas.num_locations}",
                "Run `drasclr embed --workspace` with these features, or copy the whole folder again",
                code="weights",
            )
        return stored

    def encode(self, hu_NDHW: np.ndarray) -> np.ndarray:
        """Features of all locations, float32 [N, D], `LOCATIONS` at a time."""
        parts = [slice(start, start + LOCATIONS) for start in range(0, len(hu_NDHW), LOCATIONS)]
        features = [
            encode_patches(
                self.model,
                hu_NDHW[part][:, None],
                self.coordinates_N3[part],
                hu_window=self.config.hu_window,
                features=self.features,
            )
            for part in parts
        ]
        return np.concatenate(features)[:, 0]


def preparation_of(card: dict[str, Any]) -> PrepareConfig:
    """How scans become patches for weights with this card; the defaults for what an older card does not state.

    Raises:
        StageError: the card has settings that this version does not have.
    """
    from pydantic import ValidationError

    settings = dict(card.get("preparation", {}))
    if "hu_window" in card:
        settings.setdefault("hu_window", card["hu_window"])
    try:
        return PrepareConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StageError(
            f"the card of these weights states preparation.{key}, which this version cannot use: {first['msg']}",
            "Use the version of drasclr that the card names under provenance.software, or a later one",
            code="weights",
        ) from None
