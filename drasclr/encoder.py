"""The encoder: 13 location-conditioned convolutions, each followed by normalisation and ELU (paper, section 3.2).

Legend: B samples, G locations, S samples a location, C channels, DHW space.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from drasclr import inference, trunk
from drasclr.condconv import ConditionedConv3d, Groups
from drasclr.norm import GroupNormELU, NormELU
from drasclr.pointwise import Norm

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

FEATURES = 128
PATCH_SIZE = 32
# Patches at a time in inference where no two share a location.
ONE_EACH = 32
# (channels in, channels out, stride): 32^3 voxels become 1^3.
LAYERS = (
    (1, 8, 1),
    (8, 8, 2),
    (8, 16, 1),
    (16, 16, 1),
    (16, 16, 2),
    (16, 32, 1),
    (32, 32, 1),
    (32, 32, 2),
    (32, 64, 1),
    (64, 64, 1),
    (64, 64, 2),
    (64, 128, 1),
    (128, FEATURES, 2),
)
# The last layer at each of the strides 1, 2, 4, 8 and 16, and the channels of its map.
SCALES = tuple(number for number, (_, _, stride) in enumerate(LAYERS[1:]) if stride == 2)
MAP_CHANNELS = tuple(LAYERS[number][1] for number in SCALES)
# Mean and standard deviation of every channel of every map.
MULTISCALE_FEATURES = 2 * sum(MAP_CHANNELS)

# (patches, locations, how they are grouped) -> a row a patch
Compute = Callable[[Tensor, Tensor, Groups], Tensor]


class Layer(nn.Module):
    """Conditioned convolution, normalisation, ELU."""

    def __init__(self, conv: ConditionedConv3d, *, norm: str) -> None:
        super().__init__()
        self.conv = conv
        self.norm = NormELU(conv.out_channels) if norm == "batch" else GroupNormELU(conv.out_channels)

    def forward(self, x_BCDHW: Tensor, locations_G3: Tensor, groups: Groups) -> Tensor:
        """Location-major batch in, location-major batch out."""
        y_BCDHW: Tensor = self.norm(self.conv(x_BCDHW, locations_G3, groups))
        return y_BCDHW


class Encoder(nn.Module):
    """Patches of 32^3 voxels and where they come from -> 128 features.

    Args:
        experts: expert kernels a convolution; only for conditioning="experts".
        conditioning: "experts" mixes kernels by location, as published; "concat" gives the location as three more
            input channels; "none" ignores it.
        norm: "batch" as published, or "group", which needs no statistics over the batch.
        routing_gain: factor on the initial weights of the routing, see `ConditionedConv3d`; only for
            conditioning="experts". It is part of the initial weights, not of the encoder that is saved.

    Attributes:
        card: what is known about the weights; filled by `drasclr.load`.
        atlas: the locations that the weights are conditioned on, and `template` its lung mask (bytes of a compressed
            NIfTI file); filled by `drasclr.load`, None where they are not known.
        representation: statistics of the features at each location over the training scans (bytes of a safetensors
            file), with which patients' vectors are standardised; filled by `drasclr.load`, None where there are none.
    """

    def __init__(
        self,
        experts: int = 8,
        conditioning: Literal["experts", "concat", "none"] = "experts",
        *,
        norm: Literal["batch", "group"] = "batch",
        routing_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if conditioning not in ("experts", "concat", "none"):
            raise ValueError(f"conditioning is 'experts', 'concat' or 'none', not {conditioning!r}")
        if norm not in ("batch", "group"):
            raise ValueError(f"norm is 'batch' or 'group', not {norm!r}")
        if experts < 1:
            raise ValueError(f"an encoder needs at least one expert, not {experts}")
        if routing_gain <= 0:
            raise ValueError(f"routing_gain is above 0, not {routing_gain}")
        routed = conditioning == "experts"
        self.experts = experts if routed else 1
        self.conditioning, self.norm = conditioning, norm
        self.card: dict[str, Any] = {}
        self.atlas: Atlas | None = None
        self.template: bytes | None = None
        self.representation: bytes | None = None
        self.layers = nn.ModuleList()
        for position, (channels_in, channels_out, stride) in enumerate(LAYERS):
            extra = 3 if conditioning == "concat" and position == 0 else 0
            conv = ConditionedConv3d(
                channels_in + extra,
                channels_out,
                experts=self.experts,
                stride=stride,
                routed=routed,
                routing_gain=routing_gain,
            )
            self.layers.append(Layer(conv, norm=norm))
        self.head = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES))

    def forward(self, patches_BCDHW: Tensor, locations_B3: Tensor) -> Tensor:
        """Features [B, 128] of any mixture of locations.

        Args:
            patches_BCDHW: [B, 1, 32, 32, 32], normalised to [-1, 1].
            locations_B3: normalised coordinates (`Atlas.coordinates_N3`) of each patch; data, no gradient reaches it.
        """
        return self._mixed(self._features, patches_BCDHW, locations_B3)

    def grouped(self, patches_GSCDHW: Tensor, locations_G3: Tensor) -> Tensor:
        """Features [G, S, 128] of S samples of each of G locations; the fast path of training."""
        return self._by_location(self._features, patches_GSCDHW, locations_G3)

    def multiscale(self, patches_BCDHW: Tensor, locations_B3: Tensor) -> Tensor:
        """Means and spreads over space of the maps at strides 1 to 16, [B, 496], of any mixture of locations.

        The last layer leaves out texture that earlier maps hold. The first 248 numbers are the means of the 8, 16, 32,
        64 and 128 channels at strides 1, 2, 4, 8 and 16, the others the standard deviations (divided by the number of
        voxels) in the same order.

        Args:
            patches_BCDHW: as `forward` takes them.
            locations_B3: as `forward` takes them.
        """
        return self._mixed(self._scales, patches_BCDHW, locations_B3)

    def grouped_multiscale(self, patches_GSCDHW: Tensor, locations_G3: Tensor) -> Tensor:
        """`multiscale` of S samples of each of G locations, [G, S, 496]."""
        return self._by_location(self._scales, patches_GSCDHW, locations_G3)

    def grouped_all(self, patches_GSCDHW: Tensor, locations_G3: Tensor) -> Tensor:
        """What `grouped` and then what `grouped_multiscale` give, [G, S, 128 + 496], in one pass."""
        return self._by_location(self._all, patches_GSCDHW, locations_G3)

    def _mixed(self, compute: Compute, patches_BCDHW: Tensor, locations_B3: Tensor) -> Tensor:
        """What `compute` gives for patches of any mixture of locations, in their order."""
        locations_B3 = locations_B3.detach()
        _check(patches_BCDHW.shape[1:], locations_B3.shape, (len(patches_BCDHW), 3))
        if self.conditioning != "experts":
            return compute(patches_BCDHW, locations_B3, Groups((len(patches_BCDHW),)))
        unique_G3, place_B, counts_G = torch.unique(
            locations_B3, dim=0, return_inverse=True, return_counts=True
        )
        if len(unique_G3) == 1:
            return compute(patches_BCDHW, locations_B3[:1], Groups((len(patches_BCDHW),)))
        if 2 * len(unique_G3) > len(patches_BCDHW):
            # Hardly any two samples share a location: one kernel a sample, in one grouped convolution.
            return compute(patches_BCDHW, locations_B3, Groups((1,) * len(patches_BCDHW)))
        order_B = torch.argsort(place_B, stable=True)
        results = compute(patches_BCDHW[order_B], unique_G3, Groups(tuple(counts_G.tolist())))
        return results[torch.argsort(order_B)]

    def _by_location(self, compute: Compute, patches_GSCDHW: Tensor, locations_G3: Tensor) -> Tensor:
        """What `compute` gives for patches that are ordered by location."""
        _check(patches_GSCDHW.shape[2:], locations_G3.shape, (len(patches_GSCDHW), 3))
        places, samples = patches_GSCDHW.shape[:2]
        x_BCDHW = patches_GSCDHW.flatten(0, 1)
        if self.conditioning == "experts":
            results = compute(x_BCDHW, locations_G3, Groups((samples,) * places))
        else:
            locations_B3 = locations_G3.repeat_interleave(samples, dim=0)
            results = compute(x_BCDHW, locations_B3, Groups((places * samples,)))
        return results.view(places, samples, results.shape[1])

    def maps(self, patches_BCDHW: Tensor, locations_B3: Tensor) -> list[Tensor]:
        """Feature maps at strides 1, 2, 4, 8 and 16 with 8, 16, 32, 64 and 128 channels, for heads that predict voxels.

        Args:
            patches_BCDHW: [B, 1, D, H, W], each side a multiple of 16.
            locations_B3: normalised coordinates of each patch.
        """
        if any(side % 16 for side in patches_BCDHW.shape[2:]):
            raise ValueError(f"sides must be multiples of 16 voxels, got {list(patches_BCDHW.shape[2:])}")
        x, same = patches_BCDHW, bool((locations_B3 == locations_B3[:1]).all())
        places, groups = locations_B3, Groups((1,) * len(x))
        if self.conditioning == "concat":
            planes = locations_B3[:, :, None, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes.to(x.dtype)], dim=1)
        if same:
            places, groups = locations_B3[:1], Groups((len(x),))
        maps: list[Tensor] = []
        stages = list(self.stages())
        for (_, layer), (next_stride, _) in itertools.pairwise(stages):
            x = layer(x, places, groups)
            if next_stride > (2 ** len(maps)):
                maps.append(x)
        return maps

    def project(self, features: Tensor) -> Tensor:
        """Projection that the losses are computed on, [..., 128] -> [..., 128]; not normalised."""
        projected: Tensor = self.head(features)
        return projected

    def stages(self) -> Iterator[tuple[int, Layer]]:
        """(stride so far, layer), from the input to the features."""
        stride = 1
        for layer in self.layers:
            assert isinstance(layer, Layer)
            stride *= layer.conv.stride
            yield stride, layer

    def _scales(self, x_BCDHW: Tensor, locations_G3: Tensor, groups: Groups) -> Tensor:
        return self._all(x_BCDHW, locations_G3, groups)[:, FEATURES:]

    def _all(self, x_BCDHW: Tensor, locations_G3: Tensor, groups: Groups) -> Tensor:
        means: dict[int, list[Tensor]] = {number: [] for number in SCALES}
        spreads: dict[int, list[Tensor]] = {number: [] for number in SCALES}

        def observe(number: int, map_BCDHW: Tensor) -> None:
            if number in means:
                mean = map_BCDHW.mean((2, 3, 4), keepdim=True)
                # The mean of squares in two passes: about 0 it would lose a spread far below the mean.
                square = (map_BCDHW - mean).square().mean((2, 3, 4))
                means[number].append(mean.flatten(1))
                # The root of 0 has no gradient.
                spreads[number].append(square.clamp(min=1e-12).sqrt())

        features = self._features(x_BCDHW, locations_G3, groups, observe)
        scales = [torch.cat(parts) for parts in (*means.values(), *spreads.values())]
        return torch.cat([features, *scales], dim=1)

    def _features(
        self,
        x_BCDHW: Tensor,
        locations_G3: Tensor,
        groups: Groups,
        observe: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Features [B, 128]; `observe` gets number and activations of each layer, by parts of the batch in order."""
        on_cpu = x_BCDHW.device.type == "cpu" and self.norm == "batch" and len(x_BCDHW) > 0
        on_cpu = on_cpu and not torch.is_autocast_enabled("cpu")
        chunked = groups.one_each and len(x_BCDHW) > ONE_EACH and not on_cpu
        if chunked and not (self.training or torch.is_grad_enabled()):
            # Every patch brings its own kernels, 4 MB of them: a whole scan at once would need gigabytes.
            chunks = zip(torch.split(x_BCDHW, ONE_EACH), torch.split(locations_G3, ONE_EACH), strict=True)
            return torch.cat([self._features(x, at, Groups((1,) * len(x)), observe) for x, at in chunks])
        locations_G3 = locations_G3.to(next(self.head.parameters()).dtype)
        if self.conditioning == "concat":
            planes = locations_G3[:, :, None, None, None].expand(-1, -1, *x_BCDHW.shape[2:])
            x_BCDHW = torch.cat([x_BCDHW, planes.to(x_BCDHW.dtype)], dim=1)
        if on_cpu and not self.training and not torch.is_grad_enabled():
            x, layers = channels_last(x_BCDHW), self._folded(locations_G3)
            return inference.infer(x, groups.counts, layers, observe=observe).flatten(1)
        x = x_BCDHW if groups.one_each else channels_last(x_BCDHW)
        trained = self.training and x.dtype == torch.float32 and observe is None
        if on_cpu and trained and not groups.one_each:
            return self._train_on_cpu(x, locations_G3, groups)
        for number, layer in enumerate(self.layers):
            x = layer(x, locations_G3, groups)
            if observe is not None:
                observe(number, x)
        return x.flatten(1)

    def _train_on_cpu(self, x_BCDHW: Tensor, locations_G3: Tensor, groups: Groups) -> Tensor:
        y, statistics = trunk.train(x_BCDHW, self._stack(groups), self._tensors(locations_G3))
        for (stride, layer), (mean, variance) in zip(self.stages(), statistics, strict=True):
            assert isinstance(layer.norm, NormELU)
            layer.norm.track(mean, variance, count=x_BCDHW[:, 0].numel() // stride**3)
        return y.flatten(1)

    def _stack(self, groups: Groups) -> trunk.Stack:
        layers = [layer for _, layer in self.stages()]
        return trunk.Stack(tuple(layer.conv.stride for layer in layers), layers[0].norm.eps, groups.counts)

    def _tensors(self, locations_G3: Tensor) -> list[tuple[Tensor, ...]]:
        return [
            (layer.conv.kernels(locations_G3), layer.conv.bias, layer.norm.weight, layer.norm.bias)
            for _, layer in self.stages()
        ]

    def _folded(self, locations_G3: Tensor) -> list[inference.FoldedLayer]:
        layers: list[inference.FoldedLayer] = []
        for _, layer in self.stages():
            conv, norm = layer.conv, layer.norm
            assert isinstance(norm, NormELU)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            running = Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
            routing_GE = None if conv.routing is None else conv.route(locations_G3)
            folded = inference.fold(
                conv.weight, routing_GE, conv.bias, running, conv.stride, first=not layers
            )
            layers.append(folded)
        return layers


def channels_last(x_BCDHW: Tensor) -> Tensor:
    """The same tensor in the channels-last layout.

    With one channel both layouts are the same memory and torch calls it either; a view states which one is meant.
    """
    if x_BCDHW.shape[1] > 1:
        return x_BCDHW.contiguous(memory_format=torch.channels_last_3d)
    return x_BCDHW.contiguous().view(len(x_BCDHW), *x_BCDHW.shape[2:], 1).permute(0, 4, 1, 2, 3)


def _check(patch: torch.Size, locations: torch.Size, expected: tuple[int, int]) -> None:
    if tuple(patch) != (1, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE):
        raise ValueError(
            f"patches must be [1, {PATCH_SIZE}, {PATCH_SIZE}, {PATCH_SIZE}] each, got {list(patch)}"
        )
    if tuple(locations) != expected:
        raise ValueError(f"these patches need locations of shape {list(expected)}, got {list(locations)}")
