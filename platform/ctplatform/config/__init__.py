"""Recipes: their models by stage, how they are loaded from YAML, and what names a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.config.ablations import ablated
    from ctplatform.config.cluster import (
        PlacementConfig,
        PlacementsConfig,
        RayConfig,
        ResourcesConfig,
        TrackingConfig,
    )
    from ctplatform.config.digest import config_hash
    from ctplatform.config.evaluation import (
        DenseConfig,
        FinetuneConfig,
        ReportConfig,
        ScratchConfig,
        SearchConfig,
        SegmentationConfig,
        SweepConfig,
    )
    from ctplatform.config.loader import load_recipe, recipe_names, validate
    from ctplatform.config.preparation import (
        AtlasConfig,
        LungsConfig,
        PrepareConfig,
        QualityConfig,
        RegistrationConfig,
        SamplingConfig,
        SplitConfig,
    )
    from ctplatform.config.recipe import PhantomConfig, Recipe
    from ctplatform.config.section import Section
    from ctplatform.config.tasks import TaskConfig
    from ctplatform.config.training import EmbedConfig, EncoderConfig, PretrainConfig, ProbeConfig

__all__ = [
    "AtlasConfig",
    "DenseConfig",
    "EmbedConfig",
    "EncoderConfig",
    "FinetuneConfig",
    "LungsConfig",
    "PhantomConfig",
    "PlacementConfig",
    "PlacementsConfig",
    "PrepareConfig",
    "PretrainConfig",
    "ProbeConfig",
    "QualityConfig",
    "RayConfig",
    "Recipe",
    "RegistrationConfig",
    "ReportConfig",
    "ResourcesConfig",
    "SamplingConfig",
    "ScratchConfig",
    "SearchConfig",
    "Section",
    "SegmentationConfig",
    "SplitConfig",
    "SweepConfig",
    "TaskConfig",
    "TrackingConfig",
    "ablated",
    "config_hash",
    "load_recipe",
    "recipe_names",
    "validate",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "AtlasConfig": "preparation",
        "DenseConfig": "evaluation",
        "EmbedConfig": "training",
        "EncoderConfig": "training",
        "FinetuneConfig": "evaluation",
        "LungsConfig": "preparation",
        "PhantomConfig": "recipe",
        "PlacementConfig": "cluster",
        "PlacementsConfig": "cluster",
        "PrepareConfig": "preparation",
        "PretrainConfig": "training",
        "ProbeConfig": "training",
        "QualityConfig": "preparation",
        "RayConfig": "cluster",
        "Recipe": "recipe",
        "RegistrationConfig": "preparation",
        "ReportConfig": "evaluation",
        "ResourcesConfig": "cluster",
        "SamplingConfig": "preparation",
        "ScratchConfig": "evaluation",
        "SearchConfig": "evaluation",
        "Section": "section",
        "SegmentationConfig": "evaluation",
        "SplitConfig": "preparation",
        "SweepConfig": "evaluation",
        "TaskConfig": "tasks",
        "TrackingConfig": "cluster",
        "ablated": "ablations",
        "config_hash": "digest",
        "load_recipe": "loader",
        "recipe_names": "loader",
        "validate": "loader",
    },
)
