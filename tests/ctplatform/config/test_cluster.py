"""Sections on Ray and dashboards: no password is stored, and no empty cluster is started."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.cluster import PlacementsConfig, RayConfig, TrackingConfig


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (TrackingConfig, {"mlflow": "http://user:secret@host"}, "write \\$NAME"),
        (TrackingConfig, {"experiment": ""}, "at least 1 character"),
        (RayConfig, {"num_cpus": 0}, "greater than 0"),
        (PlacementsConfig, {"sweep": {"labels": {"zone": "a"}}}, "Extra inputs"),
    ],
)
def test_impossible_values_are_refused(model, values, message):
    with pytest.raises(ValidationError, match=message):
        model.model_validate(values)


def test_possible_values_are_taken():
    assert TrackingConfig(mlflow="http://user:$TOKEN@host").mlflow == "http://user:$TOKEN@host"
    for uri in ("http://host:5000", "https://user@host:5000", "sqlite:////tmp/a@b/mlflow.db"):
        assert TrackingConfig(mlflow=uri).mlflow == uri
    placed = PlacementsConfig.model_validate({"prepare": {"resources": {"big": 1}, "labels": {"zone": "a"}}})
    assert placed.prepare.resources == {"big": 1.0}
    assert placed.pretrain.labels == {}
