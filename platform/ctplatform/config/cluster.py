"""Sections on Ray, on which nodes stages run, and on dashboards; none changes a result."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from ctplatform.config.section import Section


class ResourcesConfig(Section):
    """Custom resources of the nodes that a stage runs on, beside its CPUs and GPUs."""

    resources: dict[str, float] = Field(
        default_factory=dict, description="custom resource -> amount a task, trial or training worker"
    )


class PlacementConfig(ResourcesConfig):
    """Which nodes a stage runs on: custom resources, and labels such as `ray.io/market-type: spot`."""

    labels: dict[str, str] = Field(default_factory=dict, description="node label -> value, in, !in(...)")


class PlacementsConfig(Section):
    """Which nodes each stage runs on. No result depends on it: finished work is kept when it changes."""

    prepare: PlacementConfig = PlacementConfig()
    pretrain: PlacementConfig = PlacementConfig()
    embed: PlacementConfig = PlacementConfig()
    sweep: ResourcesConfig = ResourcesConfig()


class RayConfig(Section):
    """Connection to Ray."""

    address: str | None = Field(
        default=None,
        description="None: the cluster that this machine belongs to, if there is one, else a local one",
    )
    num_cpus: int | None = Field(default=None, gt=0, description="CPUs of a local cluster; None: all")
    include_dashboard: bool = False


class TrackingConfig(Section):
    """Experiment tracking of pretraining and sweep. Affects where metrics are recorded, never the results."""

    tensorboard: bool = Field(default=True, description="event files in the workspace, beside the metrics")
    mlflow: str | None = Field(
        default=None,
        description="tracking URI, http://... or sqlite:///file; $VARIABLES of the environment are filled in; "
        "needs pip install 'drasclr[mlflow]'",
    )
    experiment: str = Field(default="drasclr", min_length=1, description="name of MLflow's experiment")

    @model_validator(mode="after")
    def _no_password(self) -> TrackingConfig:
        if re.search(r"://[^/@:]*:(?!\d+/)[^@$]+@", self.mlflow or ""):
            raise ValueError(
                "watch.mlflow holds a password, and recipes are stored with their runs; write $NAME in its place "
                "and set that variable"
            )
        return self
