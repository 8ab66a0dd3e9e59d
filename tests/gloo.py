"""Processes that form a group of torch's gloo backend, for tests and benchmarks of several workers without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_group(work: Callable[..., object], world: int, *args: Any) -> None:
    """Call `work(rank, *args)` in each of `world` new processes of one group, with one thread each.

    `work` belongs to a module, and the arguments can be pickled.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_member, args=(world, f"file://{folder}/store", work, args), nprocs=world)


def _member(rank: int, world: int, store: str, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    work(rank, *args)
    dist.destroy_process_group()
