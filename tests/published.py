"""The published computation, written plainly from its description: one sample after the other, kernels mixed for each.

Tests compare with it, benchmarks race against it. It shares no code with `drasclr`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = (("downsample1", 8), ("downsample2", 16), ("downsample3", 32))


class SlowConv(nn.Module):
    """Conditioned convolution; parameters are named and shaped as in the authors' checkpoints."""

    def __init__(self, channels_in: int, channels_out: int, experts: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        bound = (27 * channels_in) ** -0.5
        self.weight = nn.Parameter(
            torch.empty(experts, channels_out, channels_in, 3, 3, 3).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.empty(channels_out).uniform_(-bound, bound))
        self._routing_fn = nn.Module()
        self._routing_fn.fc = nn.Linear(3, experts)

    def forward(self, x: Tensor, locations: Tensor) -> Tensor:
        outputs = []
        for sample, location in zip(x, locations, strict=True):
            routing = torch.sigmoid(self._routing_fn.fc(location))
            kernel = (routing[:, None, None, None, None, None] * self.weight).sum(0)
            outputs.append(F.conv3d(sample[None], kernel, self.bias, self.stride, 1))
        return torch.cat(outputs)


class SlowEncoder(nn.Module):
    """Patches [B, 1, 32, 32, 32], locations [B, 3] -> (projections, features), both [B, 128]."""

    def __init__(self, experts: int = 8) -> None:
        super().__init__()
        self.order: list[tuple[nn.Module, str, str]] = []
        self._add(self, "1", 1, 8, experts, 1)
        self._add(self, "2", 8, 8, experts, 2)
        for name, channels in BLOCKS:
            block = nn.Module()
            self.add_module(name, block)
            self._add(block, "1", channels, 2 * channels, experts, 1)
            self._add(block, "2", 2 * channels, 2 * channels, experts, 1)
            self._add(block, "3", 2 * channels, 2 * channels, experts, 2)
        self._add(self, "3", 64, 128, experts, 1)
        self._add(self, "4", 128, 128, experts, 2)
        self.fc = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))

    def _add(self, parent: nn.Module, suffix: str, cin: int, cout: int, experts: int, stride: int) -> None:
        parent.add_module(f"conv{suffix}", SlowConv(cin, cout, experts, stride))
        parent.add_module(f"bn{suffix}", nn.BatchNorm3d(cout))
        self.order.append((parent, f"conv{suffix}", f"bn{suffix}"))

    def forward(self, x: Tensor, locations: Tensor) -> tuple[Tensor, Tensor]:
        for parent, conv, norm in self.order:
            x = F.elu(getattr(parent, norm)(getattr(parent, conv)(x, locations)))
        features = x.flatten(1)
        return self.fc(features), features


def checkpoint(encoder: SlowEncoder, *, locations: int = 3, queue: int = 4) -> dict:
    """The authors' checkpoint format, with a small queue."""
    state = {f"module.encoder_q.{name}": value for name, value in encoder.state_dict().items()}
    state |= {f"module.encoder_k.{name}": value for name, value in encoder.state_dict().items()}
    state["module.queue"] = torch.randn(128, queue, locations)
    state["module.queue_ptr"] = torch.zeros(locations, dtype=torch.long)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01, momentum=0.9).state_dict()
    return {"epoch": 20, "arch": "custom", "state_dict": state, "optimizer": optimizer}
