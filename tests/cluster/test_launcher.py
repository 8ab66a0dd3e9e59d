"""Launcher configurations pass Ray's own validator, and what they mount exists."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "cluster" / name for name in ("aws.yaml", "gcp.yaml")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_ray_accepts_it(path):
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    validate_config(fillout_defaults(copy.deepcopy(config)))
    assert (ROOT / "constraints.txt").is_file()
    mounts = config["file_mounts"]
    assert mounts.pop("/home/ubuntu/.ray/auth_token") == "~/.ray/auth_token", "every node gets the token"
    for target, source in mounts.items():
        assert (ROOT / source).exists()
        assert any(target.removeprefix("/home/ubuntu/") in command for command in config["setup_commands"])
    for start in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[start][-1]
    broken = copy.deepcopy(config)
    broken["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(fillout_defaults(broken))
