"""Sections of the stages `pretrain` and `embed`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ctplatform.config.section import Section


class EncoderConfig(Section):
    """The location-conditioned encoder."""

    experts: int = Field(default=8, ge=1)
    conditioning: Literal["experts", "concat", "none"] = "experts"
    norm: Literal["batch", "group"] = Field(
        default="batch", description="group takes the level of each patch away, and so hides emphysema"
    )


class ProbeConfig(Section):
    """A task's head on the encoder as it is, cross-validated among training subjects.

    It changes nothing of the run, unless the run publishes what is best by it (`best_by`).
    """

    every_epochs: int = Field(default=1, ge=0, description="how often; 0: never")
    task: str | None = Field(
        default=None, description="None: the first of sweep.tasks that the training subjects have labels for"
    )
    subjects: int = Field(default=48, ge=8, description="labelled training subjects, one scan each, at most")
    locations: int = Field(default=12, gt=0, description="locations a scan, at most")


class AugmentationConfig(Section):
    """How strongly two views of a patch differ; the defaults are the published ones, and 0 is off.

    A positive pair has to share what distinguishes it from other subjects at the same place. A shift of 12 voxels
    replaces much of a patch of 32 voxels, and a change of contrast hides its density.
    """

    translation: float = Field(default=12.0, ge=0, description="largest shift along each axis, voxels")
    rotation_degrees: float = Field(default=10.0, ge=0, le=180, description="largest angle about each axis")
    scale: float = Field(
        default=0.1, ge=0, le=0.9, description="largest change of size along each axis, a share"
    )
    flip_probability: float = Field(default=0.0, ge=0, le=1, description="of mirroring, for each axis")
    noise_probability: float = Field(default=0.25, ge=0, le=1, description="of white noise")
    noise_hu: float = Field(default=50.0, ge=0, description="its largest standard deviation, HU")
    gamma_probability: float = Field(default=0.25, ge=0, le=1, description="of a change of contrast")
    gamma: tuple[float, float] = Field(default=(0.5, 4.5), description="least and largest exponent")
    kernel_probability: float = Field(default=0.5, ge=0, le=1, description="of another reconstruction kernel")
    blur: float = Field(
        default=0.0, ge=0, le=4 / 3, description="standard deviation of the smoothest, voxels"
    )
    sharpen: float = Field(default=0.0, ge=0, description="share of detail that the sharpest kernel adds")
    dose_probability: float = Field(default=0.5, ge=0, le=1, description="of a lower dose")
    dose_hu: float = Field(default=0.0, ge=0, description="largest standard deviation of its noise, HU")
    grain: float = Field(
        default=0.0, ge=0, le=4 / 3, description="largest correlation length of its noise in a slice, voxels"
    )
    breath_probability: float = Field(default=0.5, ge=0, le=1, description="of another depth of breath")
    breath: float = Field(
        default=0.0, ge=0, le=0.5, description="largest change of the lung's volume, a share"
    )

    @model_validator(mode="after")
    def _exponents(self) -> AugmentationConfig:
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise ValueError(f"gamma is (least, largest), both above 0, not {list(self.gamma)}")
        return self


class PretrainConfig(Section):
    """Ray Train."""

    encoder: EncoderConfig = EncoderConfig()
    probe: ProbeConfig = ProbeConfig()
    init: str | None = Field(
        default=None,
        description="weights to start from: folder, Hub id, URI, or a published checkpoint; None: random",
    )
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
    location_norm: bool = Field(
        default=False,
        description="projections of each location get mean 0 and variance 1 over the scans of the batch before the "
        "losses; needs at least 2 scans",
    )
    decoupled: bool = Field(
        default=False, description="the positive is left out of the losses' denominator (arXiv 2110.06848)"
    )
    variance_weight: float = Field(
        default=0.0, ge=0, description="weight of a term that keeps embeddings spread (arXiv 2105.04906)"
    )
    momentum: float = Field(default=0.999, ge=0, le=1, description="of the momentum encoder")
    momentum_end: float | None = Field(
        default=None, ge=0, le=1, description="momentum at the last step, by a cosine; None: constant"
    )
    beta: float = Field(default=1.0, ge=0, description="weight of the global loss")
    local_weight: float = Field(default=1.0, ge=0, description="weight of the local loss")
    neighbour_aggregation: Literal["sum", "mean", "attention"] = "mean"
    encode_once: bool = Field(
        default=False,
        description="encode each patch of a batch once: the view of an anchor also serves where it is a neighbour; "
        "pays where a batch holds many anchors of a block",
    )
    exclude_same_subject: bool = True
    batch_negatives: bool = Field(default=True, description="the batch's other scans are negatives too")
    shuffle_keys: bool = Field(default=False, description="encode keys on other workers than their queries")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.01, gt=0)
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of a step's gradient; None: any"
    )
    warmup_steps: int = Field(default=0, ge=0)
    routing_gain: float = Field(
        default=1.0,
        gt=0,
        description="of the initial routing weights; above 1, locations differ from the start",
    )
    routing_lr: float = Field(
        default=1.0, ge=0, description="learning rate of the routing, as a multiple of lr"
    )
    augment: bool = True
    augmentation: AugmentationConfig = AugmentationConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    num_workers: int = Field(default=2, ge=0, description="0 trains in one process without a process group")
    min_workers: int | None = Field(
        default=None,
        gt=0,
        description="train with fewer workers while nodes are missing; None: wait for them",
    )
    resize_every_s: float = Field(
        default=60.0,
        ge=0,
        description="with min_workers: seconds between checks whether more workers fit",
    )
    use_gpu: bool | None = Field(
        default=None, description="a GPU a worker; None: where there are some, and no more workers than GPUs"
    )
    cpus_per_worker: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=200, gt=0, description="steps")
    keep_checkpoints: int = Field(default=2, gt=0, description="the newest ones")
    keep_best: int = Field(default=0, ge=0, description="the best ones beside them")
    best_by: Literal["loss", "local", "global", "top1", "effective_rank", "probe"] = Field(
        default="loss",
        description="measure that ranks checkpoints, as logged last before each; probe: the encoder with the best "
        "probe is published, in place of the last one",
    )
    patience: int | None = Field(
        default=None,
        gt=0,
        description="with best_by=probe: probes without a better score after which training stops; None: never",
    )
    max_failures: int = Field(
        default=3, ge=-1, description="automatic restarts of the workers; -1: without limit"
    )
    log_every: int = Field(default=10, gt=0)
    on_collapse: Literal["warn", "stop"] = Field(
        default="warn", description="what happens when embeddings no longer tell scans apart"
    )

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
        if self.scans_per_batch < 2:
            raise ValueError(
                f"scans_per_batch={self.scans_per_batch}: the losses and location_norm compare the scans of a batch; "
                "set scans_per_batch to 2 or more"
            )
        if self.best_by == "probe" and not self.probe.every_epochs:
            raise ValueError(
                "best_by=probe needs the probe, and it is off; set probe.every_epochs to 1 or more"
            )
        if self.best_by == "probe" and self.keep_best:
            raise ValueError(
                "keep_best ranks whole checkpoints, and with best_by=probe each of them holds the best encoder; set "
                "keep_best=0"
            )
        if self.patience is not None and self.best_by != "probe":
            raise ValueError(
                f"patience={self.patience} counts probes, and has no meaning with best_by={self.best_by}; set "
                "best_by=probe, or patience=null"
            )
        if self.encode_once and self.beta == 0:
            raise ValueError(
                "encode_once shares embeddings with neighbours, and beta=0 leaves neighbours out; "
                "set encode_once=false, or beta above 0"
            )
        if self.encode_once and self.locations_per_batch == 1:
            raise ValueError(
                "encode_once shares patches between the anchors of a step, and locations_per_batch=1 has a single "
                "one; set locations_per_batch to that of a block (atlas.block_size) and scans_per_batch lower, or "
                "encode_once=false"
            )
        if self.min_workers is not None and self.shuffle_keys:
            raise ValueError(
                "shuffle_keys needs the same number of scans on all workers, which min_workers does not guarantee; "
                "set shuffle_keys=false, or min_workers=null"
            )
        return self


class EmbedConfig(Section):
    """Ray Data batch inference."""

    encoders: tuple[Literal["drasclr", "random"], ...] = ("drasclr", "random")
    scans_per_batch: int = Field(default=8, gt=0)
    num_workers: int = Field(default=2, gt=0)
    use_gpu: bool | None = Field(default=None, description="None: where there are some")
    gpus_per_worker: float = Field(default=1.0, gt=0, description="with use_gpu; 0.5: two workers share one")
    features: Literal["last", "multiscale"] = Field(
        default="last",
        description="of a patch: the 128 of the last layer; multiscale: and means and spreads of the maps at strides 1 "
        "to 16, 624 in all",
    )
    pooling: Literal["mean", "mean_std", "standardised", "standardised_spread", "standardised_gradient"] = (
        Field(
            default="mean",
            description="over locations; standardised: of features with mean 0 and variance 1 at each location over "
            "the training scans; standardised_spread: and the spread over locations; standardised_gradient: and the "
            "gradient from base to apex",
        )
    )
