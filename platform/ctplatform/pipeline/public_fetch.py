"""What a run on public data takes beside its work: bytes out of the buckets, nodes for a night, and money."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctplatform.pipeline.costs import Work
from ctplatform.storage.public import IDC_BUCKETS, public_place

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Terms:
    """Nodes and prices, as the user gives them; none is built in.

    Attributes:
        core_price: of a core-hour.
        gpu_price: of a GPU-hour.
        egress_price: of a GB that leaves a public bucket; the Imaging Data Commons' own are free of it.
        node_cores: cores of a node.
        node_gpus: GPUs of a node.
        night_h: hours in which a stage is to end.
    """

    core_price: float = 0.0
    gpu_price: float = 0.0
    egress_price: float = 0.0
    node_cores: int = 16
    node_gpus: int = 0
    night_h: float = 10.0


def fetch_lines(cohort: pd.DataFrame, works: list[Work], terms: Terms) -> list[str]:
    """Lines below the table of a dry run; none where no scan of the cohort is in a public bucket.

    Args:
        cohort: a scan table; its column `bytes`, where it has one, is the size of each scan.
        works: what each stage still has to do.
        terms: nodes and prices.
    """
    places = [public_place(str(path)) for path in cohort["path"]]
    public = [place is not None for place in places]
    if not any(public):
        return []
    scans = sum(work.amount for work in works if work.stage in ("atlas", "prepare"))
    share = scans / len(cohort)  # the atlas reads scans that prepare reads again
    known = IDC_BUCKETS.keys() | set(IDC_BUCKETS.values())
    free = [place is not None and place.bucket in known for place in places]
    lines = []
    fetched = charged = None
    if "bytes" in cohort:
        fetched = float(cohort.loc[public, "bytes"].sum()) * share
        charged = fetched - float(cohort.loc[free, "bytes"].sum()) * share
        lines.append(
            f"fetch  {fetched / 1e12:.3f} TB of {round(sum(public) * share):,} series for atlas and prepare; of the "
            f"Imaging Data Commons, whose hosts pay for the egress: {(fetched - charged) / 1e12:.3f} TB"
        )
    else:
        lines.append(
            f"fetch  {round(sum(public) * share):,} series; the table has no column bytes to say how much"
        )
    lines.append(_nodes(works, terms, fetched))
    lines += _price(works, terms, charged)
    return lines


def _nodes(works: list[Work], terms: Terms, fetched: float | None) -> str:
    needed = []
    for work in works:
        cores = math.ceil(work.core_hours / terms.night_h / terms.node_cores)
        if work.gpu_hours is None or (work.gpu_hours and not terms.node_gpus):
            needed.append(
                f"{work.stage} unknown without {'--gpu-rate' if work.gpu_hours is None else '--node-gpus'}"
            )
            continue
        gpus = math.ceil(work.gpu_hours / terms.night_h / terms.node_gpus) if work.gpu_hours else 0
        needed.append(f"{work.stage} {max(1, cores, gpus)}")
    gpus_a_node = f" and {terms.node_gpus} GPUs" if terms.node_gpus else ""
    rate = (
        f"; to fetch it all in that time: {fetched / terms.night_h / 3600 * 8 / 1e9:.2f} Gbit/s"
        if fetched
        else ""
    )
    return (
        f"nodes  of {terms.node_cores} cores{gpus_a_node} that end each stage within {terms.night_h:g} hours: "
        f"{', '.join(needed)}{rate}"
    )


def _price(works: list[Work], terms: Terms, charged: float | None) -> list[str]:
    if not (terms.core_price or terms.gpu_price or terms.egress_price):
        return ["price  give --core-price, --gpu-price and --egress-price"]
    cores = sum(work.core_hours for work in works)
    unknown = [work.stage for work in works if work.gpu_hours is None]
    gpus = sum(work.gpu_hours or 0.0 for work in works)
    out = (charged or 0.0) / 1e9
    total = cores * terms.core_price + gpus * terms.gpu_price + out * terms.egress_price
    lines = [
        f"price  {total:,.2f}: {cores:,.1f} core-hours at {terms.core_price:g}, {gpus:,.1f} GPU-hours at "
        f"{terms.gpu_price:g}, {out:,.1f} GB of egress at {terms.egress_price:g}"
    ]
    if unknown:
        lines.append(f"       without the GPU-hours of {', '.join(unknown)}, which need --gpu-rate")
    return lines
