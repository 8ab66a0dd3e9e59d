"""Inference with a pretrained encoder: vectors of patches, scans and patients, of whole cohorts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.inference.embed import Embedder, EmbedSummary, pool
    from ctplatform.inference.encoders import load_encoder, random_encoder
    from ctplatform.inference.kept_model import KeptModel, read_model
    from ctplatform.inference.predict import predict_workspace
    from ctplatform.inference.representations import Representation, read_representation

__all__ = [
    "EmbedSummary",
    "Embedder",
    "KeptModel",
    "Representation",
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
        "Embedder": "embed",
        "KeptModel": "kept_model",
        "Representation": "representations",
        "load_encoder": "encoders",
        "pool": "embed",
        "predict_workspace": "predict",
        "random_encoder": "encoders",
        "read_model": "kept_model",
        "read_representation": "representations",
    },
)
