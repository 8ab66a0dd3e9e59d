"""The published computation, written plainly from its description: one sample after the other, kernels mixed for each.

Tests compare with it, benchmarks race against it. It shares no code with `drasclr`.
"""

from __future__ import annotations

import copy
import math

import numpy as np
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


class SlowTraining:
    """A training step as published: one location a batch, one sample and one parameter after the other.

    The queue is dense, [128, keys, locations], and full.

    Args:
        encoder: becomes the query encoder; its copy is the momentum encoder.
        queue_CKN: normalised keys of every location.
    """

    temperature, momentum, beta = 0.2, 0.999, 1.0

    def __init__(self, encoder: SlowEncoder, queue_CKN: Tensor) -> None:
        self.query, self.key = encoder.train(), copy.deepcopy(encoder).train()
        self.queue_CKN = queue_CKN
        self.pointer_N = torch.zeros(queue_CKN.shape[2], dtype=torch.long)
        self.optimizer = torch.optim.SGD(self.query.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step(
        self, query: Tensor, key: Tensor, neighbours: Tensor, location: int, coordinates: Tensor
    ) -> tuple[float, float]:
        """(local loss, neighbouring loss) of a batch, before the weights change.

        Args:
            query: first views, [B, 1, 32, 32, 32].
            key: second views.
            neighbours: views at the neighbouring locations, [K, B, 1, 32, 32, 32]; normalised as one batch.
            location: index in the queue.
            coordinates: of the location and of each neighbour, [1 + K, 3].
        """
        count, around = len(query), len(neighbours)
        here = coordinates[0].expand(count, 3)
        q = F.normalize(self.query(query, here)[0], dim=1)
        flat = neighbours.transpose(0, 1).flatten(0, 1)
        r = F.normalize(self.query(flat, coordinates[1:].repeat(count, 1))[0], dim=1)
        r = r.view(count, around, -1)
        with torch.no_grad():
            for theirs, own in zip(self.query.parameters(), self.key.parameters(), strict=True):
                own.data = own.data * self.momentum + theirs.data * (1 - self.momentum)
            k = F.normalize(self.key(key, here)[0], dim=1)
        keys = self.queue_CKN[:, :, location].clone().detach()
        local = self._loss(torch.einsum("nc,nc->n", q, k), torch.einsum("nc,ck->nk", q, keys))
        near = self._loss(torch.einsum("nrc,nc->n", r, k), torch.einsum("nrc,ck->nk", r, keys))
        self.optimizer.zero_grad()
        (local + self.beta * near).backward()
        self.optimizer.step()
        with torch.no_grad():
            start = int(self.pointer_N[location])
            self.queue_CKN[:, start : start + count, location] = k.T
            self.pointer_N[location] = (start + count) % self.queue_CKN.shape[1]
        return local.item(), near.item()

    def _loss(self, positive: Tensor, negative: Tensor) -> Tensor:
        logits = torch.cat([positive[:, None], negative], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


class Scripted(np.random.RandomState):
    """A source of random numbers that gives what it was told to, over and over."""

    def __init__(self, *uniform: float, rand: float = 0.0, noise: np.ndarray | None = None) -> None:
        super().__init__(0)
        self._uniform, self._rand, self._noise, self._next = uniform, rand, noise, 0

    def rand(self, *_: int) -> float:  # type: ignore[override]
        """What a probability is compared with."""
        return self._rand

    def uniform(self, *_: float, **__: float) -> float:  # type: ignore[override]
        """The next of the numbers."""
        self._next += 1
        return self._uniform[(self._next - 1) % len(self._uniform)]

    def normal(self, mean: float, std: float, size: tuple) -> np.ndarray:  # type: ignore[override]
        """The noise, scaled."""
        assert self._noise is not None
        return mean + std * self._noise.reshape(size)


class SlowAugmentation:
    """MONAI's transforms as published, a patch at a time: affine, noise, contrast, then [-1, 1]."""

    def __init__(self, seed: int = 0) -> None:
        from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandGaussianNoise

        self.affine = RandAffine(
            prob=1.0,
            mode="bilinear",
            spatial_size=(32,) * 3,
            translate_range=(12,) * 3,
            rotate_range=(math.pi / 18,) * 3,
            scale_range=(0.1,) * 3,
            padding_mode="border",
        )
        self.noise = RandGaussianNoise(prob=0.25, std=50)
        self.contrast = RandAdjustContrast(prob=0.25)
        self.transforms = Compose([self.affine, self.noise, self.contrast])
        self.transforms.set_random_state(seed)

    def __call__(self, patch: np.ndarray) -> Tensor:
        """int16 HU [32, 32, 32] -> float32 [1, 32, 32, 32]."""
        clipped = np.clip(patch, -1024, 240).astype(np.float32)[None] + 1024
        return torch.as_tensor(np.asarray(self.transforms(clipped)), dtype=torch.float32) / 632 - 1

    def script(
        self, affine: list[float], noise_std: float, noise: np.ndarray | None, gamma: float | None
    ) -> None:
        """What the next call draws: rotation, translation, scale - 1 an axis; noise and gamma where there are any."""
        self.affine.R = self.affine.rand_affine_grid.R = Scripted(*affine)
        self.noise.R = Scripted(noise_std, rand=0.0 if noise is not None else 1.0, noise=noise)
        self.contrast.R = Scripted(1.0 if gamma is None else gamma, rand=1.0 if gamma is None else 0.0)
