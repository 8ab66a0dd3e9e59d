"""The benchmark of the GPU path runs through on a CPU, and samples there what `prepare` does."""

from __future__ import annotations

import sys

import pytest
import torch

from tests.benchmarks import gpu, gpu_parts


def test_every_part_runs_on_a_cpu(monkeypatch, capsys):
    sizes = ["--shapes", "2x2", "--block", "3x2", "--loop-scans", "2", "--locations", "6", "--keys", "4"]
    sizes += ["--volume", "40", "--embed-scans", "1", "2"]
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--repeats", "1", *sizes])
    gpu.main()
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for start in ("sampling 40^3", "augmentation, 2 x 2", "published loop, 1 x 2", "2 x 2 |"):
        assert any(row.startswith(f"| {start}") for row in rows), start
    assert any("3 x 2, each patch once" in row for row in rows)
    assert [row.split(" | ")[0] for row in rows[-2:]] == ["| 1", "| 2"]


def test_sampling_on_a_device_is_that_of_prepare():
    _, _, difference = gpu_parts.sampling(torch.device("cpu"), side=50, repeats=1)
    assert difference <= 1  # HU, where rounding falls the other way


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_device_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main()
