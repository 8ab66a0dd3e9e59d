"""The two contrastive losses over a query and a momentum encoder (paper, section 3.3).

Legend: N locations of the atlas, G anchor locations and S scans of a batch, K neighbours an anchor, H locations that
are neighbours only, C channels, DHW space, D features of an embedding, M negatives.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drasclr import losses, monitor, neighbourhood
from drasclr.encoder import FEATURES, Encoder
from drasclr.gather import Gather, Keys
from drasclr.memory import KeyMemory
from drasclr.moments import check_scans, standardise
from drasclr.neighbourhood import NeighbourAttention
from drasclr.shuffle import encode_shuffled


@dataclass(frozen=True)
class Contrast:
    """What one step gives.

    Attributes:
        loss: local_weight * local + beta * global + variance_weight * variance, to be minimised.
        local: mean local loss.
        global_: mean neighbouring loss; 0 without neighbours.
        keys_GSD: normalised keys, to be enqueued after backward; with a `gather`, those of all workers' scans.
        subjects_S: subjects of these keys.
        metrics: detached scalars for the log.
    """

    loss: Tensor
    local: Tensor
    global_: Tensor
    keys_GSD: Tensor
    subjects_S: Tensor
    metrics: dict[str, Tensor]


class DrasCLR(nn.Module):
    """Query encoder, momentum encoder, key memory and both losses.

    One call of `forward` is one step: under DistributedDataParallel wrap this module with broadcast_buffers=False,
    call it once, run backward, then `memory.enqueue(locations_G, contrast.keys_GSD, contrast.subjects_S)`.

    Args:
        encoder: becomes the query encoder; the momentum encoder starts as its copy.
        coordinates_N3: what the encoder gets for each location, `Atlas.coordinates_N3`.
        neighbours_NK: `Atlas.neighbours_NK`; K = 0 leaves only the local loss.
        queue_size: keys a location.
        temperature: of both losses.
        momentum: of the momentum encoder.
        beta: weight of the global loss.
        local_weight: weight of the local loss.
        neighbour_aggregation: "sum" as published, "mean", or "attention".
        exclude_same_subject: keys of the same subject are no negatives.
        batch_negatives: keys of the other scans of the batch (of all workers', with `gather`) are negatives, too;
            useful while the memory is short.
        shuffle_keys: encode keys on other workers than their queries, as published, so that the statistics of batch
            normalisation do not identify the positive. Needs the same shapes on all workers.
        memory_locations: locations whose keys this worker holds; all by default.
        gather: collects the keys of all workers where they work on other scans of the same locations, so that
            negatives and memory are those of the undivided batch. Without one, this worker's keys are all there are.
        location_norm: give projections of each location mean 0 and variance 1 over the scans of the batch (those of
            all workers, with `gather`) before they are L2-normalised: queries, neighbours and keys. Most of what
            projections hold is common to all scans of a location; it enters the logits of the positive and of all
            negatives alike, so that they hardly differ and the losses have little to separate scans by. What is left
            without it is how scans differ at the location, and embeddings cannot collapse into one direction, for the
            mean of what is normalised is 0. Features are computed as without it. Needs at least 2 scans a location.
        decoupled: leave the positive out of the denominator of both losses, see `losses.info_nce`.
        variance_weight: weight of the variance of the embeddings that are trained (queries and neighbours), see
            `losses.variance`; 0 leaves it out. With `location_norm` it is close to 0 from the start.
        monitored: whether collapse monitors are measured at each step.
        encode_once: encode each patch of a batch once, anchors and other neighbours in one pass; the embedding of an
            anchor's query also serves where the anchor is a neighbour. Otherwise, as published, the neighbours of
            each anchor are encoded in a pass of their own, with views of their own. Needs neighbours and beta > 0.

    Attributes:
        momentum: may be set before each step, see `drasclr.optimisation.momentum_at`.
    """

    coordinates_N3: Tensor
    neighbours_NK: Tensor

    def __init__(
        self,
        *,
        encoder: Encoder,
        coordinates_N3: Tensor | np.ndarray,
        neighbours_NK: Tensor | np.ndarray,
        queue_size: int,
        temperature: float = 0.2,
        momentum: float = 0.999,
        beta: float = 1.0,
        local_weight: float = 1.0,
        neighbour_aggregation: Literal["mean", "sum", "attention"] = "mean",
        exclude_same_subject: bool = True,
        batch_negatives: bool = False,
        shuffle_keys: bool = False,
        memory_locations: Tensor | None = None,
        gather: Gather | None = None,
        location_norm: bool = False,
        decoupled: bool = False,
        variance_weight: float = 0.0,
        monitored: bool = True,
        encode_once: bool = False,
    ) -> None:
        super().__init__()
        if neighbour_aggregation not in ("mean", "sum", "attention"):
            raise ValueError(
                f"neighbour_aggregation is 'mean', 'sum' or 'attention', not {neighbour_aggregation!r}"
            )
        if beta == 0 and local_weight == 0:
            raise ValueError("beta and local_weight are both 0: nothing would be learned")
        if variance_weight < 0:
            raise ValueError(f"variance_weight is 0 or above, not {variance_weight}")
        coordinates = _tensor(coordinates_N3).float()
        neighbours = _tensor(neighbours_NK).long()
        if neighbours.ndim != 2 or len(neighbours) != len(coordinates):
            raise ValueError(
                f"{len(coordinates)} locations, but neighbours of shape {list(neighbours.shape)}"
            )
        self.has_global = beta > 0 and neighbours.shape[1] > 0
        if local_weight == 0 and not self.has_global:
            raise ValueError("local_weight is 0 and there are no neighbours: nothing would be learned")
        if encode_once and not self.has_global:
            raise ValueError(
                "encode_once shares embeddings with neighbours: it needs neighbours and beta > 0"
            )
        self.register_buffer("coordinates_N3", coordinates, persistent=False)
        self.register_buffer("neighbours_NK", neighbours, persistent=False)
        self.query = encoder
        self.key = copy.deepcopy(encoder).requires_grad_(False)
        self.attention = (
            NeighbourAttention(FEATURES) if neighbour_aggregation == "attention" and self.has_global else None
        )
        self.memory = KeyMemory(len(coordinates), queue_size, FEATURES, locations=memory_locations)
        self.temperature, self.momentum = temperature, momentum
        self.beta, self.local_weight = beta, local_weight
        self.neighbour_aggregation = neighbour_aggregation
        self.exclude_same_subject, self.batch_negatives = exclude_same_subject, batch_negatives
        self.shuffle_keys, self.monitored = shuffle_keys, monitored
        self.gather, self.encode_once = gather, encode_once
        self.location_norm, self.decoupled, self.variance_weight = location_norm, decoupled, variance_weight

    def forward(
        self,
        query_GSCDHW: Tensor,
        key_GSCDHW: Tensor,
        neighbours_GKSCDHW: Tensor | None,
        locations_G: Tensor,
        subjects_S: Tensor,
    ) -> Contrast:
        """One step. In training mode the momentum encoder is updated here, before the keys are encoded.

        Args:
            query_GSCDHW: first view of the patches at the anchor locations, [G, S, 1, 32, 32, 32] in [-1, 1].
            key_GSCDHW: second view of the same patches.
            neighbours_GKSCDHW: patches at the anchors' neighbours, in the order of `neighbours_NK`; None if K = 0.
                With `encode_once`, first views at `neighbourhood.others`, [H, S, 1, 32, 32, 32].
            locations_G: distinct anchor locations.
            subjects_S: number of the subject of each scan.

        Raises:
            ValueError: patches of other neighbours than the anchors', or one scan a location where an option needs
                more.
        """
        if self.location_norm:
            scans = query_GSCDHW.shape[1] if self.gather is None else self.gather.total
            check_scans(scans, "normalisation of projections by location (location_norm)")
        coordinates_G3 = self.coordinates_N3[locations_G]
        around_GKSD: Tensor | None
        if self.encode_once:
            trained_GSD, around_GKSD = self._encode_once(query_GSCDHW, neighbours_GKSCDHW, locations_G)
            queries_GSD = trained_GSD[: len(locations_G)]
        else:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.local_weight > 0):
                queries_GSD = self._embed(query_GSCDHW, coordinates_G3)
            around_GKSD = self._neighbours(neighbours_GKSCDHW, locations_G)
            trained_GSD = self._trained(queries_GSD, around_GKSD)
        context_GSD = None if around_GKSD is None else self._context(around_GKSD, locations_G)
        if self.training and torch.is_grad_enabled():
            self.update_key_encoder()
        with torch.no_grad():
            if self.shuffle_keys:
                features_GSD = encode_shuffled(self.key, key_GSCDHW, coordinates_G3)
            else:
                features_GSD = self.key.grouped(key_GSCDHW, coordinates_G3)
            keys_GSD = self._normalise(self.key.project(features_GSD))
            if self.gather is None:
                everyone = Keys(keys_GSD, subjects_S, torch.arange(len(subjects_S)))
            else:
                everyone = self.gather(keys_GSD, subjects_S)

        # Similarities in single precision under autocast, too: temperatures amplify their rounding.
        with torch.autocast(keys_GSD.device.type, enabled=False):
            allowed_GSM, negatives_GMD = self._negatives(locations_G, subjects_S, everyone)
            local_GS, positive_GS, hard_GSM = self._contrast(
                queries_GSD, keys_GSD, negatives_GMD, allowed_GSM
            )
            local = local_GS.mean()
            loss = self.local_weight * local if self.local_weight > 0 else torch.zeros_like(local)
            global_ = torch.zeros_like(local)
            if context_GSD is not None:
                global_ = self._contrast(context_GSD, keys_GSD, negatives_GMD, allowed_GSM)[0].mean()
                loss = loss + self.beta * global_
            metrics = {"local": local.detach(), "global": global_.detach()}
            if self.variance_weight > 0:
                variance = losses.variance(trained_GSD, self.gather)
                loss = loss + self.variance_weight * variance
                metrics["variance"] = variance.detach()
        metrics = {"loss": loss.detach(), **metrics}
        metrics["top1"] = monitor.top1(positive_GS.detach(), hard_GSM.detach())
        metrics["negatives"] = allowed_GSM.sum(-1).float().mean()
        if self.monitored:
            metrics |= self._monitor(queries_GSD.detach(), keys_GSD, coordinates_G3)
        return Contrast(
            loss=loss,
            local=local,
            global_=global_,
            keys_GSD=everyone.keys_GTD,
            subjects_S=everyone.subjects_T,
            metrics=metrics,
        )

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """key = momentum * key + (1 - momentum) * query, over all parameters at once; `forward` does this itself."""
        torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 1 - self.momentum)

    def _embed(self, patches_GSCDHW: Tensor, coordinates_G3: Tensor) -> Tensor:
        return self._normalise(self.query.project(self.query.grouped(patches_GSCDHW, coordinates_G3)))

    def _normalise(self, projected_GSD: Tensor) -> Tensor:
        wide_GSD = projected_GSD if projected_GSD.dtype == torch.float64 else projected_GSD.float()
        if self.location_norm:
            wide_GSD = standardise(wide_GSD, self.gather)
        return F.normalize(wide_GSD, dim=-1)

    def _neighbours(self, patches_GKSCDHW: Tensor | None, locations_G: Tensor) -> Tensor | None:
        """Embeddings at the neighbours of each anchor, [G, K, S, D]."""
        if not self.has_global:
            return None
        around_GK = self.neighbours_NK[locations_G]
        if patches_GKSCDHW is None or patches_GKSCDHW.shape[:2] != around_GK.shape:
            shape = None if patches_GKSCDHW is None else list(patches_GKSCDHW.shape)
            raise ValueError(
                f"neighbour patches must start with [G, K] = {list(around_GK.shape)}, got shape {shape}"
            )
        coordinates_GK3 = self.coordinates_N3[around_GK]
        embeddings = self._embed(patches_GKSCDHW.flatten(0, 1), coordinates_GK3.flatten(0, 1))
        return embeddings.reshape(*around_GK.shape, *embeddings.shape[1:])

    def _encode_once(
        self, query_GSCDHW: Tensor, others_HSCDHW: Tensor | None, locations_G: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings at the anchors and then at their other neighbours, and at each anchor's neighbours.

        [G + H, S, D] and [G, K, S, D].
        """
        around_GK = self.neighbours_NK[locations_G]
        locations_G = locations_G.to(around_GK.device)
        others_H = neighbourhood.others(locations_G, around_GK)
        if others_HSCDHW is None or len(others_HSCDHW) != len(others_H):
            count = None if others_HSCDHW is None else len(others_HSCDHW)
            raise ValueError(f"patches of {len(others_H)} other neighbours are needed, got {count}")
        coordinates = self.coordinates_N3[torch.cat([locations_G, others_H])]
        embeddings = self._embed(torch.cat([query_GSCDHW, others_HSCDHW]), coordinates)
        return embeddings, embeddings[neighbourhood.rows(locations_G, around_GK)]

    def _context(self, embeddings_GKSD: Tensor, locations_G: Tensor) -> Tensor:
        """The neighbours of each anchor together, [G, S, D]."""
        if self.attention is not None:
            around_GK3 = self.coordinates_N3[self.neighbours_NK[locations_G]]
            offsets_GK3 = around_GK3 - self.coordinates_N3[locations_G][:, None]
            context_GSD: Tensor = self.attention(embeddings_GKSD, offsets_GK3)
            return context_GSD.to(embeddings_GKSD.dtype)
        return embeddings_GKSD.sum(1) if self.neighbour_aggregation == "sum" else embeddings_GKSD.mean(1)

    def _trained(self, queries_GSD: Tensor, around_GKSD: Tensor | None) -> Tensor:
        """All embeddings that a gradient flows through; those of neighbours count as further locations."""
        parts = [queries_GSD] if self.local_weight > 0 else []
        return torch.cat(parts if around_GKSD is None else [*parts, around_GKSD.flatten(0, 1)])

    def _negatives(self, locations_G: Tensor, subjects_S: Tensor, everyone: Keys) -> tuple[Tensor, Tensor]:
        """(which negatives count for which scan [G, S, M], negatives [G, M, D])."""
        stored = self.memory.negatives(locations_G)
        subjects_S = subjects_S.to(stored.subjects_GM)
        allowed_GSM = stored.filled_GM[:, None].expand(-1, len(subjects_S), -1)
        if self.exclude_same_subject:
            allowed_GSM = allowed_GSM & (stored.subjects_GM[:, None] != subjects_S[None, :, None])
        negatives_GMD = stored.keys_GMD.to(everyone.keys_GTD.dtype)
        if self.batch_negatives:
            subjects_T = everyone.subjects_T.to(subjects_S)
            if self.exclude_same_subject:
                different_ST = subjects_S[:, None] != subjects_T[None, :]
            else:
                own_S = everyone.own_S.to(subjects_S)
                different_ST = own_S[:, None] != torch.arange(len(subjects_T), device=own_S.device)
            allowed_GSM = torch.cat([allowed_GSM, different_ST.expand(len(locations_G), -1, -1)], dim=2)
            negatives_GMD = torch.cat([negatives_GMD, everyone.keys_GTD], dim=1)
        return allowed_GSM, negatives_GMD

    def _contrast(
        self, embeddings_GSD: Tensor, keys_GSD: Tensor, negatives_GMD: Tensor, allowed_GSM: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss [G, S], logit of the positive [G, S], logits of the negatives [G, S, M], -inf where not allowed)."""
        positive_GS = (embeddings_GSD * keys_GSD).sum(-1) / self.temperature
        negative_GSM = embeddings_GSD @ negatives_GMD.transpose(1, 2) / self.temperature
        negative_GSM = negative_GSM.masked_fill(~allowed_GSM, -math.inf)
        loss_GS = losses.info_nce(positive_GS, negative_GSM, decoupled=self.decoupled)
        return loss_GS, positive_GS, negative_GSM

    @torch.no_grad()
    def _monitor(self, queries_GSD: Tensor, keys_GSD: Tensor, coordinates_G3: Tensor) -> dict[str, Tensor]:
        return {
            "alignment": monitor.alignment(queries_GSD, keys_GSD),
            "uniformity": monitor.uniformity(queries_GSD),
            "effective_rank": monitor.effective_rank(queries_GSD.flatten(0, 1)),
            "expert_entropy": monitor.expert_entropy(self.query, coordinates_G3),
        }


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    # Arrays of an atlas are read-only, which torch does not support: copied.
    return values.detach().clone() if isinstance(values, Tensor) else torch.from_numpy(values.copy())
