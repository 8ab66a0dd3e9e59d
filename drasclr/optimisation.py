"""What an optimiser is given step by step: the momentum of the momentum encoder, and groups of parameters."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from drasclr.condconv import ConditionedConv3d


def momentum_at(step: int, total: int, *, start: float, end: float) -> float:
    """Momentum of the momentum encoder at a step: a cosine from `start` to `end`.

    end - (end - start) (cos(pi step / total) + 1) / 2, as in BYOL (arXiv 2006.07733, section 3.3). A run of some
    hundred steps needs a low start: with 0.999 throughout, two thirds of the momentum encoder's weights are still the
    random ones after 400 steps.

    Args:
        step: 0 to total; at 0 the momentum is `start`, at `total` it is `end`.
        total: steps of the run.
        start: 0 to 1.
        end: 0 to 1; the same as `start` for no schedule.

    Raises:
        ValueError: a value outside its range.
    """
    if not 0 <= step <= total:
        raise ValueError(f"step {step} is not between 0 and the {total} steps of the run")
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"momentum: {name} is between 0 and 1, not {value}")
    if start == end or total == 0:
        return start
    return end - (end - start) * (math.cos(math.pi * step / total) + 1) / 2


def parameter_groups(model: nn.Module, *, routing_lr: float = 1.0) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, in which the routing of all convolutions has a learning rate of its own.

    Args:
        model: an encoder, or a whole `DrasCLR`; parameters that need no gradient are left out.
        routing_lr: learning rate of the routing as a multiple of that of the other parameters.

    Returns:
        Groups with "params" and "lr_scale", which a training loop multiplies its learning rate by; torch's optimisers
        keep the key. With 1, or in a model without routing, a single group in the order of `model.parameters()`, so
        that states of optimisers fit.

    Raises:
        ValueError: routing_lr is below 0.
    """
    if routing_lr < 0:
        raise ValueError(f"routing_lr is 0 or above, not {routing_lr}")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    routing = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, ConditionedConv3d) and module.routing is not None
        for parameter in module.routing.parameters()
    }
    routed = [parameter for parameter in trained if id(parameter) in routing]
    if routing_lr == 1 or not routed:
        return [{"params": trained, "lr_scale": 1.0}]
    others = [parameter for parameter in trained if id(parameter) not in routing]
    return [{"params": others, "lr_scale": 1.0}, {"params": routed, "lr_scale": routing_lr}]
