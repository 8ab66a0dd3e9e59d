"""Vectors of a list of scans: in this process, or by Ray tasks whose worker processes load the model once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ctplatform.compute.fan_out import as_completed
from ctplatform.errors import StageError
from ctplatform.inference.scan_embedding import EmbeddedScan, ScanEmbedder

if TYPE_CHECKING:
    import ray

    from drasclr.encoder import Encoder

#: A scan whose worker process dies this often (out of memory, or a crash of a decoder) ends as failed.
RETRIES = 1
_CRASHED = {
    "state": "failed",
    "reason": "the worker process died each time it worked on this scan: out of memory, or a crash of a decoder",
    "remedy": "Use fewer workers at a time (--workers), or export the scan again",
    "code": "crashed",
}


@dataclass(frozen=True)
class EmbedOptions:
    """How scans are embedded.

    Attributes:
        pooling: instead of that of the weights' card.
        overlays: draw the pictures for quality control.
        device: "cpu" or "cuda".
        features: instead of those of the weights' card.
    """

    pooling: str | None = None
    overlays: bool = False
    device: str = "cpu"
    features: str | None = None


def make_embedder(model: Encoder, options: EmbedOptions) -> ScanEmbedder:
    """The function of one scan, on its device.

    Raises:
        StageError: the weights cannot be used for whole scans, or there is no such device.
    """
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise StageError(
            "there is no GPU that PyTorch can use", "Leave --device out, or see `drasclr doctor`", code="gpu"
        )
    return ScanEmbedder(
        model.to(options.device),
        pooling=options.pooling,
        features=options.features,
        overlays=options.overlays,
    )


def embed_here(
    model: Encoder, items: Sequence[dict[str, Any]], options: EmbedOptions
) -> Iterator[tuple[int, EmbeddedScan]]:
    """One scan after the other in this process: place in the list, and what came of it.

    Raises:
        StageError: the weights cannot be used for whole scans.
    """
    embedder = make_embedder(model, options)
    for number, item in enumerate(items):
        yield number, embedder(item)


def embed_on_ray(
    model: Encoder, items: Sequence[dict[str, Any]], options: EmbedOptions, *, workers: int | None = None
) -> Iterator[tuple[int, EmbeddedScan]]:
    """Many scans at a time, in the order in which they end: place in the list, and what came of it.

    Ray must be connected. The model travels once to each node, and is unpacked once in each worker process.

    Args:
        model: on the CPU.
        items: scan_id, subject_id, path, series_uid of each scan.
        options: with device "cuda" a task takes one GPU.
        workers: scans at a time; None: as many as the cluster has CPUs, or GPUs.

    Raises:
        StageError: a worker cannot use the weights or the device.
    """
    import ray

    kind = "GPU" if options.device == "cuda" else "CPU"
    if workers is None:
        workers = max(1, int(ray.cluster_resources().get(kind, 1)))
    reference = ray.put(model)
    # Without max_calls=0 a process with a GPU would end after each task, and load the model for each scan.
    task = ray.remote(num_cpus=1, num_gpus=int(kind == "GPU"), max_retries=RETRIES, max_calls=0)(_embed)

    def submit(item: dict[str, Any]) -> ray.ObjectRef[Any]:
        # Inside a list the reference stays one: an argument of its own would be unpacked for every task.
        started: ray.ObjectRef[Any] = task.remote([reference], options, item)
        return started

    stream = as_completed(submit, items, in_flight=workers)
    while True:
        try:
            number, result = next(stream)
        except StopIteration:
            return
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, StageError) else error from None
        if not isinstance(result, EmbeddedScan):
            row = {name: items[number][name] for name in ("scan_id", "subject_id")}
            result = EmbeddedScan(row | _CRASHED, None)
        yield number, result


def _embed(reference: list[ray.ObjectRef[Any]], options: EmbedOptions, item: dict[str, Any]) -> EmbeddedScan:
    return _embedder(reference[0], options)(item)


@lru_cache(maxsize=1)
def _embedder(reference: ray.ObjectRef[Any], options: EmbedOptions) -> ScanEmbedder:
    """One a worker process."""
    import ray

    return make_embedder(ray.get(reference), options)
