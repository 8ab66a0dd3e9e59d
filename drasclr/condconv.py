"""Location-conditioned 3-D convolution: kernels are mixed once a location, never once a sample.

Legend: G locations, S samples a location, B = samples in all (location-major: samples of one location are
neighbours), C channels, DHW space, E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3


@dataclass(frozen=True)
class Groups:
    """How a location-major batch is divided.

    Attributes:
        counts: samples of each location, in order.
    """

    counts: tuple[int, ...]

    @property
    def one_each(self) -> bool:
        """Several locations with a single sample each."""
        return len(self.counts) > 1 and max(self.counts) == 1


class ConditionedConv3d(nn.Module):
    """3 x 3 x 3 convolution, padding 1, whose kernel depends on the location (paper, section 3.2).

    kernel(location) = sum_e sigmoid(Linear(location))_e W_e, with one bias for all locations. With one expert and
    `routed=False` it is an ordinary convolution.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        experts: E.
        stride: 1 or 2.
        routed: whether the kernel depends on the location.
        routing_gain: factor on the initial weights of the routing. With 1, torch's default for three inputs, all
            weights of experts lie near sigmoid(0) = 1/2, so that kernels of all locations start nearly alike; a larger
            factor gives locations different mixtures from the start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        experts: int,
        stride: int = 1,
        routed: bool = True,
        routing_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if not routed and experts != 1:
            raise ValueError(f"without routing there is one kernel, not {experts}")
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        # Channels of the input come last, so that a mixed kernel has the channels-last layout without a copy.
        self.weight = nn.Parameter(torch.empty(experts, out_channels, KERNEL, KERNEL, KERNEL, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.routing = nn.Linear(3, experts) if routed else None
        self.routing_gain = routing_gain
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise so that a mixed kernel starts where an ordinary convolution would.

        torch's default is U(-b, b), b = 1 / sqrt(fan_in). A mixture of E independent kernels with weights near
        sigmoid(0) = 1/2 has the variance of one kernel times E / 4, so each expert is drawn with b * 2 / sqrt(E).
        The published code instead lets torch read the fan-in off a six-dimensional tensor.
        """
        bound = 1 / math.sqrt(self.in_channels * KERNEL**3)
        experts = len(self.weight)
        scale = 2 / math.sqrt(experts) if self.routing is not None else 1.0
        nn.init.uniform_(self.weight, -bound * scale, bound * scale)
        nn.init.uniform_(self.bias, -bound, bound)
        if self.routing is not None:
            self.routing.reset_parameters()
            with torch.no_grad():
                self.routing.weight.mul_(self.routing_gain)

    def route(self, locations_G3: Tensor) -> Tensor:
        """Weight of each expert, [G, E], each between 0 and 1."""
        if self.routing is None:
            return torch.ones(len(locations_G3), 1, dtype=self.weight.dtype, device=self.weight.device)
        return torch.sigmoid(self.routing(locations_G3))

    def kernels(self, locations_G3: Tensor) -> Tensor:
        """Mixed kernels [G, Cout, Cin, 3, 3, 3] in channels-last memory order; G = 1 if nothing is routed."""
        if self.routing is None:
            mixed: Tensor = self.weight
        else:
            # In full precision under autocast, too: the sum over experts is short, but rounding r would shift kernels.
            with torch.autocast(self.weight.device.type, enabled=False):
                mixed = (self.route(locations_G3) @ self.weight.flatten(1)).view(-1, *self.weight.shape[1:])
        return mixed.permute(0, 1, 5, 2, 3, 4)

    def forward(self, x_BCDHW: Tensor, locations_G3: Tensor, groups: Groups) -> Tensor:
        """Convolve a location-major batch; the layout (channels last or not) is kept."""
        kernels = self.kernels(locations_G3)
        if len(kernels) == 1:
            return self._convolve(x_BCDHW, kernels[0])
        if groups.one_each:
            return self._convolve_grouped(x_BCDHW, kernels)
        parts = torch.split(x_BCDHW, list(groups.counts))
        return torch.cat([self._convolve(part, kernel) for part, kernel in zip(parts, kernels, strict=True)])

    def _convolve(self, x_BCDHW: Tensor, kernel: Tensor) -> Tensor:
        return F.conv3d(x_BCDHW, kernel, self.bias, self.stride, KERNEL // 2)

    def _convolve_grouped(self, x_BCDHW: Tensor, kernels: Tensor) -> Tensor:
        # One sample a location: the batch becomes the channels of one grouped convolution.
        count = len(x_BCDHW)
        x = x_BCDHW.contiguous().view(1, count * self.in_channels, *x_BCDHW.shape[2:])
        weight = kernels.contiguous().flatten(0, 1)
        y = F.conv3d(x, weight, self.bias.repeat(count), self.stride, KERNEL // 2, 1, count)
        return y.view(count, self.out_channels, *y.shape[2:])
