"""An encoder as an ONNX graph, written operator by operator.

`patches` [B, 1, 32, 32, 32] and `locations` [B, 3], float32, become `features` [B, D], for any B. The normalisation is
folded into the kernels. Where kernels depend on the location they are mixed once a patch, within a Scan: an exported
trace would fix the number of patches, and convolving with every expert would cost eight times the operations.

Opset 17 of the default domain, and the version of the file format that came with it: runtimes since 2022 read it.

Legend: B patches, E experts, C channels, D features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform import __version__
from ctplatform.errors import StageError

if TYPE_CHECKING:
    import onnx

    from drasclr.encoder import Encoder, Layer

OPSET, IR_VERSION = 17, 8
PATCHES, LOCATIONS, VECTORS = "patches", "locations", "features"
#: `Encoder.multiscale` takes the root of at least this.
LEAST_VARIANCE = 1e-12


def onnx_model(
    encoder: Encoder, *, features: str = "last", metadata: Mapping[str, Any] | None = None
) -> onnx.ModelProto:
    """The graph of an encoder in evaluation mode, with its weights, in single precision.

    Args:
        encoder: any conditioning and normalisation.
        features: "last", D = 128; or "multiscale", the 128 and then the 496 of `Encoder.multiscale`.
        metadata: kept in the file; values as JSON.

    Raises:
        StageError: the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise StageError(
            "ONNX files are written by the package onnx, which is not installed",
            "pip install 'drasclr[onnx]'",
            code="extra",
        ) from None
    from onnx import TensorProto, helper

    from drasclr.encoder import FEATURES, MULTISCALE_FEATURES, PATCH_SIZE

    multiscale = features == "multiscale"
    width = FEATURES + (MULTISCALE_FEATURES if multiscale else 0)
    outer = _Nodes()
    if encoder.conditioning == "experts":
        # The body sees one patch; the weights are those of the graph around it.
        body = _Nodes(outer.weights, "scan_")
        patch = body.add("Unsqueeze", ["patch", body.constant(np.array([0]))])
        location = body.add("Unsqueeze", ["location", body.constant(np.array([0]))])
        row = _stack(body, encoder, patch, location, multiscale=multiscale)
        last = body.add("Squeeze", [row, body.constant(np.array([0]))])
        scanned = helper.make_graph(
            body.nodes,
            "patch",
            [
                helper.make_tensor_value_info("patch", TensorProto.FLOAT, [1, *[PATCH_SIZE] * 3]),
                helper.make_tensor_value_info("location", TensorProto.FLOAT, [3]),
            ],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, [width])],
        )
        outer.nodes.append(
            helper.make_node("Scan", [PATCHES, LOCATIONS], [VECTORS], body=scanned, num_scan_inputs=2)
        )
    else:
        row = _stack(outer, encoder, PATCHES, LOCATIONS, multiscale=multiscale)
        outer.nodes.append(helper.make_node("Identity", [row], [VECTORS]))
    graph = helper.make_graph(
        outer.nodes,
        "drasclr",
        [
            helper.make_tensor_value_info(PATCHES, TensorProto.FLOAT, ["B", 1, *[PATCH_SIZE] * 3]),
            helper.make_tensor_value_info(LOCATIONS, TensorProto.FLOAT, ["B", 3]),
        ],
        [helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["B", width])],
        outer.weights,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="drasclr",
        producer_version=__version__,
    )
    helper.set_model_props(model, {name: json.dumps(value) for name, value in (metadata or {}).items()})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Nodes:
    """Nodes of a graph with running names, and the weights that they share with other graphs."""

    def __init__(self, weights: list[Any] | None = None, prefix: str = "") -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = [] if weights is None else weights
        self.prefix = prefix

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Name of the one output of a new node."""
        from onnx import helper

        name = f"{self.prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Name of a weight, float32, or int64 where the values are whole."""
        from onnx import numpy_helper

        kind = np.int64 if np.issubdtype(values.dtype, np.integer) else np.float32
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=kind), name))
        return name


def _stack(nodes: _Nodes, encoder: Encoder, x: str, locations: str, *, multiscale: bool) -> str:
    """All layers: name of the features [B, D]."""
    from drasclr.encoder import SCALES

    if encoder.conditioning == "concat":
        x = _with_location(nodes, x, locations)
    means, spreads = [], []
    for number, (_, layer) in enumerate(encoder.stages()):
        x = _layer(nodes, layer, x, locations)
        if multiscale and number in SCALES:
            mean = nodes.add("ReduceMean", [x], axes=[2, 3, 4], keepdims=1)
            centred = nodes.add("Sub", [x, mean])
            square = nodes.add(
                "ReduceMean", [nodes.add("Mul", [centred, centred])], axes=[2, 3, 4], keepdims=1
            )
            least = nodes.add("Max", [square, nodes.constant(np.array([LEAST_VARIANCE]))])
            means.append(nodes.add("Flatten", [mean]))
            spreads.append(nodes.add("Flatten", [nodes.add("Sqrt", [least])]))
    features = nodes.add("Flatten", [x])
    return nodes.add("Concat", [features, *means, *spreads], axis=1) if multiscale else features


def _with_location(nodes: _Nodes, x: str, locations: str) -> str:
    """Three more channels that hold the location."""
    from drasclr.encoder import PATCH_SIZE

    points = nodes.add("Unsqueeze", [locations, nodes.constant(np.array([2, 3, 4]))])
    planes = nodes.add("Expand", [points, nodes.constant(np.array([1, 1, *[PATCH_SIZE] * 3]))])
    return nodes.add("Concat", [x, planes], axis=1)


def _layer(nodes: _Nodes, layer: Layer, x: str, locations: str) -> str:
    from drasclr.norm import NormELU

    conv, norm = layer.conv, layer.norm
    # [E, Cout, Cin, 3, 3, 3]; folded in double precision.
    experts = conv.weight.detach().double().permute(0, 1, 5, 2, 3, 4).cpu().numpy()
    bias = conv.bias.detach().double().cpu().numpy()
    if isinstance(norm, NormELU):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance, weight, shift = (
            tensor.detach().double().cpu().numpy()
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        scale = weight / np.sqrt(variance + norm.eps)
        experts, bias = experts * scale[:, None, None, None, None], (bias - mean) * scale + shift
    if conv.routing is None:
        kernel = nodes.constant(experts[0])
    else:
        routing = [conv.routing.weight.detach().cpu().numpy(), conv.routing.bias.detach().cpu().numpy()]
        logits = nodes.add("Gemm", [locations, *map(nodes.constant, routing)], transB=1)
        flat = nodes.constant(experts.reshape(len(experts), -1))
        mixed = nodes.add("MatMul", [nodes.add("Sigmoid", [logits]), flat])
        kernel = nodes.add("Reshape", [mixed, nodes.constant(np.array(experts.shape[1:]))])
    y = nodes.add(
        "Conv",
        [x, kernel, nodes.constant(bias)],
        kernel_shape=[3] * 3,
        pads=[1] * 6,
        strides=[conv.stride] * 3,
    )
    return nodes.add("Elu", [y if isinstance(norm, NormELU) else _group_norm(nodes, norm, y)])


def _group_norm(nodes: _Nodes, norm: Any, x: str) -> str:
    """Group normalisation, which opset 17 has of instances only: groups are laid out as instances."""
    channels, groups = norm.num_channels, norm.num_groups
    grouped = nodes.add("Reshape", [x, nodes.constant(np.array([0, groups, -1]))])
    ones, zeros = nodes.constant(np.ones(groups)), nodes.constant(np.zeros(groups))
    normal = nodes.add("InstanceNormalization", [grouped, ones, zeros], epsilon=norm.eps)
    normal = nodes.add("Reshape", [normal, nodes.add("Shape", [x])])
    weight, bias = (
        nodes.constant(tensor.detach().cpu().numpy().reshape(1, channels, 1, 1, 1))
        for tensor in (norm.weight, norm.bias)
    )
    return nodes.add("Add", [nodes.add("Mul", [normal, weight]), bias])
