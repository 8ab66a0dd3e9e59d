"""MLflow's tracking URI as a recipe gives it: checked and completed in the driver, before work begins."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from ctplatform.config.cluster import TrackingConfig
from ctplatform.errors import ConfigError


def tracking_uri(config: TrackingConfig) -> str | None:
    """MLflow's tracking URI with variables filled in and a relative SQLite file made absolute; None: no MLflow.

    Called in the driver: workers have other working directories, and a mistake should be reported before work begins.

    Raises:
        ConfigError: MLflow is not installed, a variable is not set, or MLflow does not accept such a URI.
    """
    if not config.mlflow:
        return None
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "watch.mlflow is set, but MLflow is not installed",
            'Install it with `pip install "drasclr[mlflow]"`, or leave watch.mlflow out',
            code="config",
        )
    uri = os.path.expandvars(config.mlflow)
    unset = re.findall(r"\$\{?(\w+)\}?", uri)
    if unset:
        raise ConfigError(
            f"watch.mlflow names ${unset[0]}, which is not set", "Set it where the driver runs", code="config"
        )
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme == "file":
        raise ConfigError(
            "watch.mlflow is no tracking URI that MLflow accepts: it no longer keeps runs in plain folders",
            "Give http(s)://HOST:PORT of a server, or sqlite:///FILE",
            code="config",
        )
    if scheme == "sqlite" and rest.startswith("/"):
        return f"sqlite:///{Path(rest[1:]).expanduser().absolute()}"
    return uri
