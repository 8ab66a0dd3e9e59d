"""A tracking URI is checked and completed in the driver."""

from __future__ import annotations

import importlib.util

import pytest

from ctplatform.config.cluster import TrackingConfig
from ctplatform.config.loader import load_recipe
from ctplatform.errors import ConfigError
from ctplatform.tracking.uri import tracking_uri


def test_a_tracking_uri_is_checked_before_work_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "xyz")
    assert tracking_uri(TrackingConfig()) is None
    assert tracking_uri(TrackingConfig(mlflow="sqlite:///runs.db")) == f"sqlite:///{tmp_path}/runs.db"
    assert tracking_uri(TrackingConfig(mlflow=f"sqlite:///{tmp_path}/a.db")) == f"sqlite:///{tmp_path}/a.db"
    assert tracking_uri(TrackingConfig(mlflow="http://me:${SECRET}@host")) == "http://me:xyz@host"
    for wrong, message in (
        ("file:///tmp/runs", "no tracking URI"),
        ("runs", "no tracking URI"),
        ("http://$NOWHERE", "NOWHERE, which is not set"),
    ):
        with pytest.raises(ConfigError, match=message):
            tracking_uri(TrackingConfig(mlflow=wrong))
    with pytest.raises(ConfigError, match="holds a password"):
        load_recipe("fast", ["watch.mlflow=http://me:xyz@host"])


def test_without_the_extra_the_error_names_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    with pytest.raises(ConfigError, match=r'pip install "drasclr\[mlflow\]"'):
        tracking_uri(TrackingConfig(mlflow="sqlite:///a.db"))
