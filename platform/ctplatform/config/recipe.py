"""The recipe's sections: one strict, frozen model for the whole chain, and the one place for defaults."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from ctplatform.config.cluster import PlacementsConfig, RayConfig, TrackingConfig
from ctplatform.config.evaluation import ReportConfig, SweepConfig
from ctplatform.config.preparation import AtlasConfig, PrepareConfig, SplitConfig
from ctplatform.config.section import Name, Section
from ctplatform.config.tasks import TaskConfig
from ctplatform.config.training import EmbedConfig, PretrainConfig

_SAFE = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,59}")


class VariationConfig(Section):
    """What differs between patients of a clinic beyond the default phantoms; sources: docs/explanation/phantom.md."""

    scanners: bool = Field(
        default=False,
        description="three reconstruction kernels that blur and sharpen, and doses down to a quarter",
    )
    breath: bool = Field(
        default=False, description="breath held at up to a quarter of the lungs' height lower"
    )
    subtypes: bool = Field(
        default=False,
        description="emphysema of one subtype, centrilobular or panlobular, with equal LAA-950; label `panlobular`",
    )
    cysts: bool = Field(
        default=False,
        description="the same cysts under the pleura or in the middle of the lung; label `subpleural_cysts`",
    )
    airways: bool = Field(default=False, description="bronchi further out have visible walls; label `pi10`")
    interstitial: bool = Field(
        default=False, description="early interstitial change at the bases of some; label `interstitial`"
    )
    opacity: bool = Field(
        default=False,
        description="one ground-glass opacity, which means something else in each lobe; label `opacity_upper`",
    )


class PhantomConfig(Section):
    """The synthetic cohort of the demo."""

    subjects: int = Field(default=48, gt=1)
    seed: int = 0
    spacing_mm: float = Field(default=1.8, gt=0, description="mean in-plane spacing; slices are thicker")
    dicom_every: int = Field(
        default=6, ge=0, description="every n-th scan is written as a DICOM series; 0: none"
    )
    variation: VariationConfig = VariationConfig()


class Recipe(Section):
    """Everything that a run depends on."""

    name: Name = Field(default="fast", description="first part of the names of its runs")
    description: str = ""
    atlas: AtlasConfig = AtlasConfig()
    prepare: PrepareConfig = PrepareConfig()
    split: SplitConfig = SplitConfig()
    pretrain: PretrainConfig = PretrainConfig()
    embed: EmbedConfig = EmbedConfig()
    tasks: dict[str, TaskConfig] = Field(default_factory=dict, description="labels of your own, by name")
    sweep: SweepConfig = SweepConfig()
    report: ReportConfig = ReportConfig()
    phantom: PhantomConfig | None = None
    placement: PlacementsConfig = PlacementsConfig()
    ray: RayConfig = RayConfig()
    watch: TrackingConfig = TrackingConfig()

    @field_validator("tasks")
    @classmethod
    def _file_names(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        bad = [name for name in tasks if not _SAFE.fullmatch(name)]
        if bad:
            raise ValueError(
                f"{', '.join(map(repr, bad))}: a task's name becomes part of file names; use letters, digits, `_` and "
                "`.`, a letter first, at most 60"
            )
        return tasks

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.pretrain.beta > 0 and self.atlas.neighbours == 0:
            raise ValueError(
                "pretrain.beta > 0 needs atlas.neighbours >= 1; set pretrain.beta=0 for no global loss"
            )
        if self.pretrain.init and self.sweep.ablations:
            raise ValueError(
                "pretrain.init and sweep.ablations: ablations start from random weights, so that they could not be "
                "compared; leave one of the two out"
            )
        if self.pretrain.beta == 0 and self.pretrain.local_weight == 0:
            raise ValueError("pretrain.beta and pretrain.local_weight are both 0: nothing would be learned")
        return self
