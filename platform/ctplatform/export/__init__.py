"""Trained encoders for other software: an ONNX file, a MONAI bundle, a repository on the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.export.hub import push, write_hub_folder
    from ctplatform.export.monai_bundle import write_monai_bundle
    from ctplatform.export.onnx_folder import write_onnx
    from ctplatform.export.onnx_graph import onnx_model

__all__ = ["onnx_model", "push", "write_hub_folder", "write_monai_bundle", "write_onnx"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "onnx_model": "onnx_graph",
        "push": "hub",
        "write_hub_folder": "hub",
        "write_monai_bundle": "monai_bundle",
        "write_onnx": "onnx_folder",
    },
)
