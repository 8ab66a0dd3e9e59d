"""The recipe's sections: one strict, frozen model for the whole chain, and the one place for defaults."""

from __future__ import annotations

from pydantic import Field, model_validator

from ctplatform.config.cluster import PlacementsConfig, RayConfig, TrackingConfig
from ctplatform.config.evaluation import ReportConfig, SweepConfig
from ctplatform.config.preparation import AtlasConfig, PrepareConfig, SplitConfig
from ctplatform.config.section import Section
from ctplatform.config.training import EmbedConfig, PretrainConfig


class PhantomConfig(Section):
    """The synthetic cohort of the demo."""

    subjects: int = Field(default=48, gt=1)
    seed: int = 0
    spacing_mm: float = Field(default=1.8, gt=0, description="mean in-plane spacing; slices are thicker")
    dicom_every: int = Field(
        default=6, ge=0, description="every n-th scan is written as a DICOM series; 0: none"
    )


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
    watch: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.pretrain.beta > 0 and self.atlas.neighbours == 0:
            raise ValueError(
                "pretrain.beta > 0 needs atlas.neighbours >= 1; set pretrain.beta=0 for no global loss"
            )
        if self.pretrain.beta == 0 and self.pretrain.local_weight == 0:
            raise ValueError("pretrain.beta and pretrain.local_weight are both 0: nothing would be learned")
        return self
