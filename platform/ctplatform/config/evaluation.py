"""Sections of the stages `sweep` and `report`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ctplatform.config.section import Name, Section

INITIALISATIONS = ("drasclr", "finetune", "scratch", "density", "random")
_FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,59}")


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
    """Fine-tuning of the pretrained encoder; batches, patches and the sum of all steps are those of `scratch`.

    The steps are shared by `folds` runs that leave a part of the labelled subjects out and a last one on all of them,
    which takes as many steps as helped the subjects that were left out: none, where none did.
    """

    lr: float = Field(default=1e-4, gt=0, description="of the head and the last layer")
    weight_decay: float = Field(default=1e-4, ge=0)
    layer_decay: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="learning rate of a layer as a share of that of the layer above it",
    )
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of a step's gradient")
    folds: int = Field(
        default=3,
        ge=2,
        description="validation runs that choose the number of steps, on labelled training subjects",
    )


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
    reduction: int = Field(default=3, ge=2, description="one configuration in so many continues at each rung")

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
        description="frozen: drasclr, random, density, names of `runs`, `ablations`, `external` and `encoders`; "
        "trained: "
        "finetune, scratch",
    )
    ablations: tuple[Literal["local", "global", "none", "moco"], ...] = Field(
        default=(),
        description="pretrained and embedded beside the main run: one loss only, no conditioning, or both",
    )
    runs: dict[Name, Name] = Field(
        default_factory=dict, description="initialisation name -> pretraining run of this workspace, embedded"
    )
    external: dict[str, str] = Field(
        default_factory=dict,
        description="initialisation name -> vectors of an encoder of your own: a table with scan_id and features, or a "
        "folder of <scan_id>.npz",
    )
    encoders: dict[str, str] = Field(
        default_factory=dict,
        description="initialisation name -> encoder of your own: module:attribute, or an entry point of the group "
        "drasclr.encoders",
    )
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.1, 0.3, 1.0), description="of the training labels, above 0 and up to 1"
    )
    seeds: int = Field(default=5, gt=0)
    scratch: ScratchConfig = ScratchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    dense: DenseConfig = DenseConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    search: SearchConfig = SearchConfig()
    bootstrap: int = Field(default=2000, ge=100)
    max_concurrent: int = Field(
        default=2, gt=0, description="trials, or fits of models that are kept, at a time"
    )
    cpus_per_trial: float = Field(default=1.0, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    columns: dict[str, str] = Field(default_factory=dict, description="standard label name -> cohort column")
    classes: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="task on label maps -> its classes and their values in your maps"
    )

    @model_validator(mode="before")
    @classmethod
    def _external_are_initialisations(cls, values: Any) -> Any:
        """Vectors and encoders of one's own are compared without being named once more."""
        if not isinstance(values, dict):
            return values
        sections = [values.get(key) for key in ("external", "encoders")]
        external = [name for section in sections if isinstance(section, dict) for name in section]
        if not external:
            return values
        named = values.get("initialisations", cls.model_fields["initialisations"].default)
        if not isinstance(named, list | tuple):
            return values
        return {**values, "initialisations": [*named, *(name for name in external if name not in named)]}

    @model_validator(mode="after")
    def _external_names(self) -> SweepConfig:
        taken = {*INITIALISATIONS, *self.ablations, *self.runs}
        for key, names in (("external", self.external), ("encoders", self.encoders)):
            bad = [name for name in names if name in taken or not _FILE_NAME.fullmatch(name)]
            if bad:
                raise ValueError(
                    f"{key}: {', '.join(map(repr, bad))}: taken, or no file name; use letters, digits, `_` and `.`"
                )
            taken |= set(names)
        return self

    @model_validator(mode="after")
    def _some_fraction(self) -> SweepConfig:
        if not self.fractions:
            raise ValueError("fractions: at least one is needed")
        return self

    @model_validator(mode="after")
    def _known_initialisations(self) -> SweepConfig:
        known = (*INITIALISATIONS, *self.ablations, *self.runs, *self.external, *self.encoders)
        unknown = [name for name in self.initialisations if name not in known]
        if unknown:
            raise ValueError(
                f"initialisations {', '.join(map(repr, unknown))}: not among {', '.join(known)}; name a pretraining "
                "run of yours under sweep.runs, an ablation under sweep.ablations, vectors under sweep.external, or an "
                "encoder under sweep.encoders"
            )
        return self


class ReportConfig(Section):
    """The HTML report."""

    title: str = "Label-efficiency report"
    gallery: int = Field(default=12, ge=0, description="scans in the QC gallery")
