"""The recipe's sections: one strict, frozen model for the whole chain, and the one place for defaults."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LungsConfig(Section):
    """Lung mask."""

    segmenter: Literal["classical", "lungmask"] = Field(
        default="classical",
        description="lungmask: the U-Net of that package, pip install 'drasclr[lungmask]'",
    )
    spacing_mm: float = Field(default=3.0, gt=0, description="working grid of the mask, mm")
    weights: str | None = Field(default=None, description="lungmask's weights, if it shall not download them")


class RegistrationConfig(Section):
    """Affine registration of the scan's lung mask to the atlas."""

    spacing_mm: float = Field(default=4.0, gt=0, description="grid of the signed distance maps, mm")
    points: int = Field(default=10_000, gt=100, description="atlas points that the fit uses")
    iterations: int = Field(default=25, gt=0)


class SamplingConfig(Section):
    """Patches at atlas locations."""

    geometry: Literal["centre", "published"] = "centre"
    axes: Literal["lps", "atlas"] = Field(
        default="lps", description="patch axes and scale: the scan's own mm, or as the affine takes the atlas"
    )
    interpolation: Literal["bspline", "linear"] = "bspline"


class QualityConfig(Section):
    """Thresholds of the verdict. `reject_*` ends a scan as rejected, `flag_*` as flagged."""

    reject_dice: float = 0.55
    flag_dice: float = 0.70
    flag_side_dice: float = 0.60
    reject_volume_l: tuple[float, float] = (0.8, 12.0)
    flag_volume_l: tuple[float, float] = (1.5, 9.0)
    flag_side_ratio: tuple[float, float] = (0.6, 2.0)
    flag_singular_values: tuple[float, float] = (0.55, 1.5)
    flag_determinant: float = 0.35
    flag_cut_cm2: float = 20.0
    reject_cut_cm2: float = 150.0
    reject_air_hu: tuple[float, float] = (-1080.0, -900.0)
    flag_air_hu: tuple[float, float] = (-1060.0, -930.0)
    flag_mirrored: float = Field(default=0.75, description="probability that left and right are swapped")
    reject_mirrored: float = 0.95
    flag_opaque: float = Field(
        default=0.1, description="share of a lung's inside, as the atlas has it, that is as dense as tissue"
    )
    flag_base_step_mm: float = Field(default=50.0, description="by which one lung ends higher than the other")
    flag_inside: float = 0.9
    reject_inside: float = 0.5
    use_flagged: bool = Field(
        default=True, description="whether flagged scans are pretrained on and evaluated"
    )


class AtlasConfig(Section):
    """The lung-mask template and its grid of locations."""

    source: str = Field(
        "build", description="'build' from the cohort, or a folder / NIfTI file with a template"
    )
    patch_size: int = Field(default=32, gt=4, description="voxels of 1 mm a side")
    step: int = Field(
        default=26, gt=0, description="distance of neighbouring locations, voxels of the atlas grid"
    )
    min_lung_fraction: float = Field(default=0.1, gt=0, lt=1)
    neighbours: int = Field(default=2, ge=0)
    block_size: int = Field(default=32, gt=0, description="locations a block, about")
    max_scans: int = Field(default=64, gt=0, description="scans that the built template is the mean of")
    iterations: int = Field(default=2, gt=0)


class PrepareConfig(Section):
    """Ray Data: cohort to shards."""

    hu_window: tuple[int, int] = (-1024, 240)
    lungs: LungsConfig = LungsConfig()
    registration: RegistrationConfig = RegistrationConfig()
    sampling: SamplingConfig = SamplingConfig()
    quality: QualityConfig = QualityConfig()
    num_cpus: float = Field(default=1.0, gt=0, description="CPUs a scan")
    memory_gb: float = Field(default=0.0, ge=0, description="memory reserved a scan; 0 reserves none")
    overlays: bool = True


class SplitConfig(Section):
    """Subject-level split, stratified; stored before pretraining, which never sees a test subject."""

    test_fraction: float = Field(default=0.35, gt=0, lt=1)
    alike_above: float = Field(
        default=0.7,
        gt=0,
        description="correlation of lung density above which scans of different subjects count as one; 1: none do",
    )
    seed: int = 0
    stratify: str | None = Field(default=None, description="label column; None: by lung density (LAA-950)")


class EncoderConfig(Section):
    """The location-conditioned encoder."""

    experts: int = Field(default=8, ge=1)
    conditioning: Literal["experts", "concat", "none"] = "experts"
    norm: Literal["batch", "group"] = Field(
        default="batch", description="group takes the level of each patch away, and so hides emphysema"
    )


class ProbeConfig(Section):
    """A task's head on the encoder as it is, cross-validated among training subjects; changes nothing of the run."""

    every_epochs: int = Field(default=1, ge=0, description="how often; 0: never")
    task: str | None = Field(
        default=None, description="None: the first of sweep.tasks that the training subjects have labels for"
    )
    subjects: int = Field(default=48, ge=8, description="labelled training subjects, one scan each, at most")
    locations: int = Field(default=12, gt=0, description="locations a scan, at most")


class PretrainConfig(Section):
    """Ray Train."""

    encoder: EncoderConfig = EncoderConfig()
    probe: ProbeConfig = ProbeConfig()
    epochs: int = Field(default=20, gt=0)
    max_steps: int | None = Field(
        default=None, gt=0, description="stop after so many steps, whatever the epoch"
    )
    scans_per_batch: int = Field(
        default=32, gt=0, description="scans a step over all workers, however many there are"
    )
    locations_per_batch: int = Field(default=4, gt=0, description="anchor locations a step")
    memory: Literal["replicated", "location_parallel"] = Field(
        default="replicated",
        description="every worker holds all keys; or each its own locations, their patches and keys",
    )
    queue_size: int = Field(default=4096, gt=0, description="keys a location")
    temperature: float = Field(default=0.2, gt=0)
    momentum: float = Field(default=0.999, ge=0, le=1, description="of the momentum encoder")
    beta: float = Field(default=1.0, ge=0, description="weight of the global loss")
    local_weight: float = Field(default=1.0, ge=0, description="weight of the local loss")
    neighbour_aggregation: Literal["sum", "mean", "attention"] = "mean"
    exclude_same_subject: bool = True
    batch_negatives: bool = Field(default=True, description="the batch's other scans are negatives too")
    shuffle_keys: bool = Field(default=False, description="encode keys on other workers than their queries")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    augment: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    num_workers: int = Field(default=2, ge=0, description="0 trains in one process without a process group")
    min_workers: int | None = Field(
        default=None,
        gt=0,
        description="go on with fewer workers while nodes are missing; None: wait for them",
    )
    resize_every_s: float = Field(
        default=60.0,
        ge=0,
        description="with min_workers: how often to look whether more workers fit, seconds",
    )
    use_gpu: bool = False
    cpus_per_worker: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=200, gt=0, description="steps")
    keep_checkpoints: int = Field(default=2, gt=0, description="the newest ones")
    keep_best: int = Field(default=0, ge=0, description="the best ones beside them")
    best_by: Literal["loss", "local", "global", "top1", "effective_rank"] = Field(
        default="loss", description="of two checkpoints the better one by what was logged last before each"
    )
    max_failures: int = Field(
        default=3, ge=-1, description="restarts of the workers by themselves; -1: no end"
    )
    log_every: int = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _possible(self) -> PretrainConfig:
        if self.memory == "location_parallel" and self.shuffle_keys:
            raise ValueError(
                "shuffle_keys has no meaning with memory=location_parallel, where no two workers encode keys of one "
                "location; set shuffle_keys=false, or memory=replicated"
            )
        if self.min_workers is not None and not 0 < self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers={self.min_workers} must be between 1 and num_workers={self.num_workers}"
            )
        if self.min_workers is not None and self.shuffle_keys:
            raise ValueError(
                "shuffle_keys needs the same number of scans on all workers, which min_workers does not promise; "
                "set shuffle_keys=false, or min_workers=null"
            )
        return self


class EmbedConfig(Section):
    """Ray Data batch inference."""

    encoders: tuple[Literal["drasclr", "random"], ...] = ("drasclr", "random")
    scans_per_batch: int = Field(default=8, gt=0)
    num_workers: int = Field(default=2, gt=0)
    use_gpu: bool = False
    gpus_per_worker: float = Field(default=1.0, gt=0, description="with use_gpu; 0.5: two workers share one")
    pooling: Literal["mean", "mean_std"] = "mean"


class ScratchConfig(Section):
    """End-to-end training on the labels: the from-scratch baseline, and what fine-tuning shares with it."""

    epochs: int = Field(default=20, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_steps: int | None = Field(
        default=None, gt=0, description="stop after so many steps, whatever the epoch"
    )
    locations: int = Field(default=16, gt=0, description="locations a subject and step")
    pool: int = Field(
        default=64, gt=0, description="locations a scan that steps draw from and that tests average over"
    )
    subjects_per_batch: int = Field(default=8, gt=0)


class FinetuneConfig(Section):
    """Fine-tuning of the pretrained encoder; steps, batches and patches are those of `scratch`: both cost the same."""

    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)


class DenseConfig(Section):
    """Dense prediction of emphysema subtypes: windows of 32 mm that slide over the lungs."""

    stride: int = Field(
        default=16, ge=2, le=32, multiple_of=2, description="mm from window to window; the map's resolution"
    )
    train_windows: int = Field(
        default=512,
        gt=0,
        description="windows a training subject that are learned from, as many of each class",
    )
    batch: int = Field(default=32, gt=0, description="windows a step of scratch and finetune")


class SegmentationConfig(Section):
    """Segmentation of nodules and lobes with the encoder as the contracting path of a U-Net."""

    crop: int = Field(default=48, ge=32, multiple_of=16, description="voxels a side of a training crop, 1 mm")
    crops_per_batch: int = Field(default=4, gt=0)
    steps: int = Field(default=400, gt=0, description="optimiser steps, the same at every label fraction")
    lr: float = Field(default=1e-3, gt=0, description="of whatever starts from random weights")
    encoder_lr: float = Field(default=3e-4, gt=0, description="of a pretrained encoder")
    window: int = Field(
        default=64, ge=32, multiple_of=16, description="voxels a side of a sliding window at the test"
    )
    overlap: float = Field(default=0.25, ge=0, lt=1, description="of neighbouring windows at the test")


class SearchConfig(Section):
    """Learning rate and weight decay of end-to-end trials, searched by ASHA in each cell, on validation subjects."""

    configurations: int = Field(
        default=0, ge=0, description="tried in each cell, the recipe's own first; 0: no search"
    )
    algorithm: Literal["random", "optuna"] = Field(
        default="random", description="optuna: its TPE sampler, pip install 'drasclr[optuna]'"
    )
    validation_fraction: float = Field(default=0.25, gt=0, lt=1, description="of a cell's training subjects")
    lr_factor: tuple[float, float] = Field(
        default=(0.1, 10.0), description="range, as multiples of the recipe's learning rate"
    )
    weight_decay: tuple[float, float] = Field(default=(1e-6, 0.1), description="range")
    grace: float = Field(
        default=0.1, gt=0, le=1, description="share of the steps before a configuration may be stopped"
    )
    reduction: int = Field(default=3, ge=2, description="one in so many goes on at each rung")

    @model_validator(mode="after")
    def _ranges(self) -> SearchConfig:
        for name in ("lr_factor", "weight_decay"):
            low, high = getattr(self, name)
            if not 0 < low < high:
                raise ValueError(
                    f"{name}: a range from above 0 to a larger value is needed, got {low} to {high}"
                )
        if self.configurations == 1:
            raise ValueError("configurations: 1 is the recipe's own values only; set 0, or 2 and more")
        return self


class SweepConfig(Section):
    """Ray Tune: task x initialisation x label fraction x seed."""

    tasks: tuple[str, ...] = ("emphysema_extent", "gold_stage", "survival")
    initialisations: tuple[str, ...] = Field(
        default=("drasclr", "scratch", "density", "random"),
        description="frozen: drasclr, random, density, names of `runs` and `ablations`; trained: finetune, scratch",
    )
    ablations: tuple[Literal["local", "global", "none", "moco"], ...] = Field(
        default=(),
        description="pretrained and embedded beside the main run: one loss only, no conditioning, or both",
    )
    runs: dict[str, str] = Field(
        default_factory=dict, description="initialisation name -> pretraining run of this workspace, embedded"
    )
    fractions: tuple[float, ...] = (0.1, 0.3, 1.0)
    seeds: int = Field(default=5, gt=0)
    scratch: ScratchConfig = ScratchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    dense: DenseConfig = DenseConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    search: SearchConfig = SearchConfig()
    bootstrap: int = Field(default=2000, ge=100)
    max_concurrent: int = Field(default=2, gt=0)
    cpus_per_trial: float = Field(default=1.0, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    columns: dict[str, str] = Field(default_factory=dict, description="standard label name -> cohort column")
    classes: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="task on label maps -> its classes and their values in your maps"
    )

    @model_validator(mode="after")
    def _known_initialisations(self) -> SweepConfig:
        known = ("drasclr", "finetune", "scratch", "density", "random", *self.ablations, *self.runs)
        unknown = [name for name in self.initialisations if name not in known]
        if unknown:
            raise ValueError(
                f"initialisations {', '.join(map(repr, unknown))}: not among {', '.join(known)}; name a pretraining "
                "run of yours under sweep.runs, or an ablation under sweep.ablations"
            )
        return self


class ReportConfig(Section):
    """The HTML report."""

    title: str = "Label-efficiency report"
    gallery: int = Field(default=12, ge=0, description="scans in the QC gallery")


class PhantomConfig(Section):
    """The synthetic cohort of the demo."""

    subjects: int = Field(default=48, gt=1)
    seed: int = 0
    spacing_mm: float = Field(default=1.8, gt=0, description="mean in-plane spacing; slices are thicker")
    dicom_every: int = Field(
        default=6, ge=0, description="every n-th scan is written as a DICOM series; 0: none"
    )


class ResourcesConfig(Section):
    """Custom resources of the nodes that a stage runs on, beside its CPUs and GPUs."""

    resources: dict[str, float] = Field(
        default_factory=dict, description="custom resource -> amount a task, trial or training worker"
    )


class PlacementConfig(ResourcesConfig):
    """Which nodes a stage runs on: custom resources, and labels such as `ray.io/market-type: spot`."""

    labels: dict[str, str] = Field(default_factory=dict, description="node label -> value, in, !in(...)")


class PlacementsConfig(Section):
    """Which nodes each stage runs on. Says where, never what comes out: no finished work is done again for it."""

    prepare: PlacementConfig = PlacementConfig()
    pretrain: PlacementConfig = PlacementConfig()
    embed: PlacementConfig = PlacementConfig()
    sweep: ResourcesConfig = ResourcesConfig()


class RayConfig(Section):
    """How the chain talks to Ray."""

    address: str | None = Field(
        default=None, description="None: the cluster around us if there is one, else a local one"
    )
    num_cpus: int | None = Field(default=None, gt=0, description="CPUs of a local cluster; None: all")
    include_dashboard: bool = False


class WatchConfig(Section):
    """Where training and sweep can be watched. Says where figures go, never what comes out."""

    tensorboard: bool = Field(default=True, description="event files in the workspace, beside the metrics")
    mlflow: str | None = Field(
        default=None,
        description="tracking URI, http://... or sqlite:///file; $VARIABLES of the environment are filled in; "
        "needs pip install 'drasclr[mlflow]'",
    )
    experiment: str = Field(default="drasclr", min_length=1, description="name of MLflow's experiment")

    @model_validator(mode="after")
    def _no_password(self) -> WatchConfig:
        if re.search(r"://[^/@]*:[^/@$]+@", self.mlflow or ""):
            raise ValueError(
                "watch.mlflow holds a password, and recipes are stored with their runs; write $NAME in its place "
                "and set that variable"
            )
        return self


class Recipe(Section):
    """Everything that a run depends on."""

    name: str = "fast"
    description: str = ""
    atlas: AtlasConfig = AtlasConfig()
    prepare: PrepareConfig = PrepareConfig()
    split: SplitConfig = SplitConfig()
    pretrain: PretrainConfig = PretrainConfig()
    embed: EmbedConfig = EmbedConfig()
    sweep: SweepConfig = SweepConfig()
    report: ReportConfig = ReportConfig()
    phantom: PhantomConfig | None = None
    placement: PlacementsConfig = PlacementsConfig()
    ray: RayConfig = RayConfig()
    watch: WatchConfig = WatchConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.pretrain.beta > 0 and self.atlas.neighbours == 0:
            raise ValueError(
                "pretrain.beta > 0 needs atlas.neighbours >= 1; set pretrain.beta=0 for no global loss"
            )
        if self.pretrain.beta == 0 and self.pretrain.local_weight == 0:
            raise ValueError("pretrain.beta and pretrain.local_weight are both 0: nothing would be learned")
        return self


def config_hash(*sections: BaseModel | Mapping[str, Any] | str) -> str:
    """Twelve hex digits that name a configuration; equal values give equal names."""
    plain = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
