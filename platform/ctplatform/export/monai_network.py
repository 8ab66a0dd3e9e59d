"""The encoder as MONAI's bundles need a network: one tensor in, one out, and readable by TorchScript.

The channels of the input are the locations of an atlas, whose coordinates are part of the weights.

Legend: B scans, N locations, E experts, C channels, DHW space, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drasclr.encoder import LAYERS, SCALES

if TYPE_CHECKING:
    from drasclr.encoder import Encoder


class Convolution(nn.Module):
    """Parameters of `drasclr.condconv.ConditionedConv3d`, by the same names, for one location at a time."""

    def __init__(
        self, channels_in: int, channels_out: int, experts: int, stride: int, *, routed: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(experts, channels_out, 3, 3, 3, channels_in))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.routing = nn.Linear(3, experts) if routed else None

    def forward(self, x_BCDHW: Tensor, location_3: Tensor) -> Tensor:
        """Convolve patches of one location."""
        kernel = self.weight[0]
        if self.routing is not None:
            routing_E = torch.sigmoid(self.routing(location_3))
            kernel = (routing_E @ self.weight.flatten(1)).view(self.weight.shape[1:])
        kernel = kernel.permute(0, 4, 1, 2, 3)
        stride = [self.stride, self.stride, self.stride]
        if x_BCDHW.shape[0] == 1 and x_BCDHW.device.type == "cpu":
            # torch convolves one small volume several times as slowly as two (findings/conv3d-one-volume.sh).
            return F.conv3d(torch.cat([x_BCDHW, x_BCDHW]), kernel, self.bias, stride, [1, 1, 1])[:1]
        return F.conv3d(x_BCDHW, kernel, self.bias, stride, [1, 1, 1])


class Layer(nn.Module):
    """Convolution, normalisation, ELU."""

    def __init__(self, conv: Convolution, channels: int, norm: str) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm3d(channels) if norm == "batch" else nn.GroupNorm(min(8, channels), channels)

    def forward(self, x_BCDHW: Tensor, location_3: Tensor) -> Tensor:
        """Patches of one location in and out."""
        return F.elu(self.norm(self.conv(x_BCDHW, location_3)))


class AtlasEncoder(nn.Module):
    """Patches of all locations of an atlas -> their features.

    Args:
        locations: N.
        experts: as of `drasclr.Encoder`.
        conditioning: "experts", "concat" or "none".
        norm: "batch" or "group".
        features: "last", F = 128; or "multiscale", the 128 and then the 496 of `Encoder.multiscale`.
    """

    def __init__(
        self, *, locations: int, experts: int, conditioning: str, norm: str, features: str = "last"
    ) -> None:
        super().__init__()
        routed = conditioning == "experts"
        self.concat, self.multiscale = conditioning == "concat", features == "multiscale"
        self.scales = list(SCALES)
        self.coordinates_N3 = nn.Buffer(torch.zeros(locations, 3))
        self.layers = nn.ModuleList()
        for number, (channels_in, channels_out, stride) in enumerate(LAYERS):
            extra = 3 if self.concat and number == 0 else 0
            conv = Convolution(
                channels_in + extra, channels_out, experts if routed else 1, stride, routed=routed
            )
            self.layers.append(Layer(conv, channels_out, norm))

    def forward(self, image: Tensor) -> Tensor:
        """[B, N, 32, 32, 32], normalised to [-1, 1] -> [B, N, F]."""
        rows: list[Tensor] = []
        for n in range(image.shape[1]):
            rows.append(self.at_location(image[:, n : n + 1], self.coordinates_N3[n]))
        return torch.stack(rows, dim=1)

    def at_location(self, x_BCDHW: Tensor, location_3: Tensor) -> Tensor:
        """Features [B, F] of the patches of one location."""
        if self.concat:
            planes = location_3.view(1, 3, 1, 1, 1).expand(
                x_BCDHW.shape[0], 3, x_BCDHW.shape[2], x_BCDHW.shape[3], x_BCDHW.shape[4]
            )
            x_BCDHW = torch.cat([x_BCDHW, planes], dim=1)
        means: list[Tensor] = []
        spreads: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            x_BCDHW = layer(x_BCDHW, location_3)
            if self.multiscale and number in self.scales:
                mean = x_BCDHW.mean(dim=[2, 3, 4], keepdim=True)
                square = (x_BCDHW - mean).square().mean(dim=[2, 3, 4])
                means.append(mean.flatten(1))
                spreads.append(square.clamp(min=1e-12).sqrt())
        features = x_BCDHW.flatten(1)
        if self.multiscale:
            return torch.cat([features, torch.cat(means, dim=1), torch.cat(spreads, dim=1)], dim=1)
        return features


def network_arguments(encoder: Encoder, *, features: str, locations: int) -> dict[str, object]:
    """Arguments of the `AtlasEncoder` that an encoder's weights fit into."""
    return {
        "locations": locations,
        "experts": encoder.experts,
        "conditioning": encoder.conditioning,
        "norm": encoder.norm,
        "features": features,
    }


def network_state(encoder: Encoder, coordinates_N3: Tensor) -> dict[str, Tensor]:
    """The `AtlasEncoder`'s weights, single precision: those of the layers, and the locations."""
    layers = {name: tensor for name, tensor in encoder.state_dict().items() if name.startswith("layers.")}
    state = layers | {"coordinates_N3": coordinates_N3}
    return {
        name: tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in state.items()
    }
