"""CPUs, GPUs and memory: whether what each stage requests fits, and whether GPUs stay unused."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ctplatform.pipeline.checks.finding import Finding, require

if TYPE_CHECKING:
    from ctplatform.config.cluster import RayConfig
    from ctplatform.config.recipe import Recipe
    from ctplatform.config.section import Section

S = TypeVar("S", bound="Section")
#: Seconds for which the nodes of a running cluster may still join before a run ends for want of them.
JOIN_S = 60.0


@dataclass(frozen=True)
class Request:
    """What a stage requests of Ray: so many units at once, each on one node.

    Attributes:
        stage: that requests it.
        keys: of the recipe, with their values, for messages.
        count: units that the stage cannot start without.
        unit: resource -> amount.
    """

    stage: str
    keys: str
    count: int
    unit: Mapping[str, float]


def requests(recipe: Recipe, stages: Collection[str]) -> list[Request]:
    """The requests of the stages that will run."""
    found = []
    prepare, pretrain, sweep, place = recipe.prepare, recipe.pretrain, recipe.sweep, recipe.placement
    if "prepare" in stages or ("atlas" in stages and recipe.atlas.source == "build"):
        unit = {"CPU": prepare.num_cpus, "memory": prepare.memory_gb * 2**30, **place.prepare.resources}
        keys = f"prepare.num_cpus={prepare.num_cpus:g}, prepare.memory_gb={prepare.memory_gb:g}"
        found.append(Request("prepare" if "prepare" in stages else "atlas", keys, 1, unit))
    if "pretrain" in stages and pretrain.num_workers:
        name = "min_workers" if pretrain.min_workers else "num_workers"
        count = pretrain.min_workers or pretrain.num_workers
        unit = {
            "CPU": pretrain.cpus_per_worker,
            "GPU": float(bool(pretrain.use_gpu)),
            **place.pretrain.resources,
        }
        keys = f"pretrain.{name}={count}, pretrain.cpus_per_worker={pretrain.cpus_per_worker:g}"
        keys += ", pretrain.use_gpu=true" if pretrain.use_gpu else ""
        found.append(Request("pretrain", keys, count, unit))
    if "embed" in stages:
        gpus = recipe.embed.gpus_per_worker if recipe.embed.use_gpu else 0.0
        unit = {"CPU": 0.0 if gpus else 1.0, "GPU": gpus, **place.embed.resources}
        keys = f"embed.gpus_per_worker={gpus:g}" if gpus else "embed.use_gpu=false"
        found.append(Request("embed", keys, 1, unit))
    if "sweep" in stages:
        unit = {"CPU": sweep.cpus_per_trial, "GPU": sweep.gpus_per_trial, **place.sweep.resources}
        keys = f"sweep.cpus_per_trial={sweep.cpus_per_trial:g}, sweep.gpus_per_trial={sweep.gpus_per_trial:g}"
        found.append(Request("sweep", keys, 1, unit))
    return found


def local_nodes(config: RayConfig) -> list[dict[str, float]]:
    """Resources of the one node that a local session of Ray would have, before it is started."""
    return [{"CPU": float(config.num_cpus or os.cpu_count() or 1), "GPU": float(local_gpus())}]


def local_gpus() -> int:
    """GPUs of this machine that this process may use, by the device files of NVIDIA's driver."""
    devices = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return len(devices)
    return min(len(devices), len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))


def request_findings(wanted: list[Request], nodes: list[dict[str, float]]) -> list[Finding]:
    """Requests that the nodes cannot meet; resources that the nodes do not state are taken as there.

    Args:
        wanted: of the stages.
        nodes: resource -> amount of each node.
    """
    found = []
    for request in wanted:
        unit = {name: amount for name, amount in request.unit.items() if amount > 0 and _stated(name, nodes)}
        fits = sum(_units(unit, node) for node in nodes) if unit else request.count
        if fits < request.count:
            need = ", ".join(f"{_amount(amount, name)} {_name(name)}" for name, amount in unit.items())
            have = "; ".join(
                ", ".join(f"{_amount(node.get(name, 0.0), name)} {_name(name)}" for name in unit)
                for node in nodes[:5]
            )
            found.append(
                Finding(
                    "error",
                    request.stage,
                    f"{request.keys}: {request.count} x ({need}) at once, and {len(nodes)} node(s) with {have} have "
                    f"room for {int(fits)}",
                    "Set these keys lower, or use a larger machine or cluster",
                )
            )
    return found


def _stated(name: str, nodes: list[dict[str, float]]) -> bool:
    return name in ("CPU", "GPU") or any(name in node for node in nodes)


def _units(unit: Mapping[str, float], node: Mapping[str, float]) -> float:
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in unit.items())


def _amount(value: float, name: str) -> str:
    return f"{value / 2**30:.1f}" if name == "memory" else f"{value:g}"


def _name(resource: str) -> str:
    return "GB of memory" if resource == "memory" else resource


def with_gpus(recipe: Recipe, nodes: list[dict[str, float]]) -> tuple[Recipe, list[str]]:
    """The recipe with GPUs used where it leaves that open (`use_gpu` None) and nodes have some; and what was set.

    Keys that are set here do not count as set by the user (`model_fields_set`).
    """
    gpus = int(sum(node.get("GPU", 0.0) for node in nodes))
    pretrain, embed = recipe.pretrain, recipe.embed
    lines = []
    if pretrain.use_gpu is None:
        use = gpus > 0 and pretrain.num_workers > 0
        changes: dict[str, object] = {"use_gpu": use}
        if use and pretrain.min_workers is None and pretrain.num_workers > gpus:
            changes["num_workers"] = gpus
        pretrain = _fitted(pretrain, changes)
        if use:
            lines.append(
                f"{gpus} GPU(s) found: pretrain.use_gpu=true, pretrain.num_workers={pretrain.num_workers}"
            )
    if embed.use_gpu is None:
        embed = _fitted(embed, {"use_gpu": gpus > 0})
        if embed.use_gpu:
            lines.append(f"{gpus} GPU(s) found: embed.use_gpu=true")
    return recipe.model_copy(update={"pretrain": pretrain, "embed": embed}), lines


def _fitted(section: S, changes: Mapping[str, object]) -> S:
    changed = section.model_copy(update=changes)
    changed.model_fields_set.intersection_update(section.model_fields_set - {"use_gpu"})
    return changed


def gpu_findings(recipe: Recipe, stages: Collection[str], nodes: list[dict[str, float]]) -> list[Finding]:
    """GPUs that are there and switched off in the recipe."""
    gpus = int(sum(node.get("GPU", 0.0) for node in nodes))
    settings = [("pretrain", recipe.pretrain.use_gpu), ("embed", recipe.embed.use_gpu)]
    off = [f"{stage}.use_gpu" for stage, used in settings if stage in stages and used is False]
    if not gpus or not off:
        return []
    return [
        Finding(
            "warning",
            ", ".join(off),
            f"{gpus} GPU(s) are there, and {' and '.join(off)} {'are' if len(off) > 1 else 'is'} off",
            "Leave the key out, or set it to true, to use them",
        )
    ]


def connected_nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster that this process is connected to."""
    import ray

    nodes: Callable[[], list[dict[str, object]]] = ray.nodes
    return [dict(node["Resources"]) for node in nodes() if node["Alive"]]  # type: ignore[call-overload]


def require_cluster(
    recipe: Recipe,
    stages: Collection[str],
    *,
    patience_s: float,
    say: Callable[[str], None],
    every_s: float = 2.0,
) -> None:
    """Wait until the connected cluster has room for the stages; no wait where its autoscaler can make room.

    Raises:
        PreflightError: it has none after `patience_s`.
    """
    from ctplatform.compute.ray_internals import autoscaler_configured

    wanted = requests(recipe, stages)
    deadline, said = time.monotonic() + patience_s, False
    while True:
        found = request_findings(wanted, connected_nodes())
        if not found or autoscaler_configured():
            return
        if time.monotonic() >= deadline:
            require(found)
        if not said:
            say(f"waiting up to {patience_s:.0f} s for nodes: {found[0].problem}")
            said = True
        time.sleep(every_s)
