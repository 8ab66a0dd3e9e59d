"""Equal values have equal hashes, and hashes of version 0.1.0 stay valid."""

from __future__ import annotations

from ctplatform.config.digest import config_hash
from ctplatform.config.loader import load_recipe


def test_hashes_name_values_not_objects():
    one, same, other = load_recipe("fast"), load_recipe("fast"), load_recipe("fast", ["pretrain.lr=0.2"])
    assert config_hash(one) == config_hash(same) != config_hash(other)


def test_hashes_are_those_of_the_first_version():
    """Names of runs and of finished scans depend on them."""
    assert config_hash("a") == "0eb5b8d6f81b"
    assert config_hash({"b": [1, 2.5, None], "a": True}) == config_hash({"a": True, "b": [1, 2.5, None]})
    assert config_hash({"b": [1, 2.5, None], "a": True}) == "3094a34c1768"
    assert config_hash("a", {"b": 1}) != config_hash({"b": 1}, "a")
    assert len(config_hash("")) == 12
