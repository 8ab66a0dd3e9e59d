"""Units that work is counted in: what one costs, how much a stage has of it, how large a cohort is."""

from __future__ import annotations

from dataclasses import dataclass

DOCS = "docs/benchmarks"


@dataclass(frozen=True)
class Costs:
    """Cost of one unit. The defaults were measured on x86_64 cores, one thread.

    prepare_s: CPU-seconds a scan, reading and writing included, at 581 locations (docs/validation.md, mean).
    patch_bytes: of a shard, a location, compressed, halo included.
    anchor_s: core-seconds an anchor of pretraining, in the chain: three forward and backward passes, one forward.
    forward_s: CPU-seconds a patch of inference, eight locations a batch (method).
    train_s: CPU-seconds a patch of plain supervised training, forward and backward (method).
    trial_s: core-seconds a trial of the sweep that trains no network.
    gpu_anchors_per_s: anchors a second and GPU; None: not measured.
    """

    prepare_s: float = 2.1
    patch_bytes: float = 65_000.0
    anchor_s: float = 1 / 17.5
    forward_s: float = 0.0034
    train_s: float = 0.0137
    trial_s: float = 0.5
    gpu_anchors_per_s: float | None = None
    prepare_basis: str = DOCS
    anchor_basis: str = DOCS
    gpu_basis: str = ""

    @property
    def gpu_remark(self) -> str:
        """Where the GPU rate was measured, or that none is known."""
        return self.gpu_basis or "no GPU rate is known: give --gpu-rate"


@dataclass(frozen=True)
class Work:
    """What is to be done in one stage. `gpu_hours` is None where no GPU rate was measured or given."""

    stage: str
    amount: int
    unit: str
    core_hours: float = 0.0
    gpu_hours: float | None = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    basis: str = ""


@dataclass(frozen=True)
class Size:
    """How large a cohort is, and how much of each stage is done."""

    scans: int
    training_scans: int
    locations: int
    prepared: int = 0
    steps_done: int = 0
    atlas_done: bool = False
    exact: bool = True

    def scan_bytes(self, costs: Costs) -> float:
        """Size of a scan's shard."""
        return self.locations * costs.patch_bytes

    @property
    def remark(self) -> str:
        """Says of an estimate that its sizes are not known yet."""
        return "" if self.exact else "; cohort and atlas not yet known, sizes estimated"
