"""Inference with a pretrained encoder: vectors of patches, scans and patients, of whole cohorts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.inference.embed import EmbedSummary
    from ctplatform.inference.embedder import Embedder
    from ctplatform.inference.encoders import load_encoder, random_encoder
    from ctplatform.inference.kept_model import KeptModel, read_model
    from ctplatform.inference.pooling import LocationStatistics, pool
    from ctplatform.inference.predict import predict_workspace
    from ctplatform.inference.representations import Representation, read_representation
    from ctplatform.inference.scan_embedding import ScanEmbedding, embed_scan

__all__ = [
    "EmbedSummary",
    "Embedder",
    "KeptModel",
    "LocationStatistics",
    "Representation",
    "ScanEmbedding",
    "embed_scan",
    "load_encoder",
    "pool",
    "predict_workspace",
    "random_encoder",
    "read_model",
    "read_representation",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "EmbedSummary": "embed",
        "Embedder": "embedder",
        "KeptModel": "kept_model",
        "LocationStatistics": "pooling",
        "Representation": "representations",
        "ScanEmbedding": "scan_embedding",
        "embed_scan": "scan_embedding",
        "load_encoder": "encoders",
        "pool": "pooling",
        "predict_workspace": "predict",
        "random_encoder": "encoders",
        "read_model": "kept_model",
        "read_representation": "representations",
    },
)
