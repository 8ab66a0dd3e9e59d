"""The command `python -m ctplatform.phantom`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctplatform.phantom.__main__ import main


def test_command_writes_a_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["phantom", str(tmp_path), "--subjects", "2", "--spacing", "6", "--dicom-every", "2"]
    )
    main()
    assert "2 subjects" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "cohort.csv")["path"].tolist() == [
        "scans/phantom-0000.nii.gz",
        "scans/phantom-0001",
    ]


def test_command_varies_the_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["phantom", str(tmp_path), "--subjects", "2", "--spacing", "8", "--dicom-every", "0"]
    monkeypatch.setattr("sys.argv", [*command, "--vary", "airways", "opacity"])
    main()
    table = pd.read_csv(tmp_path / "cohort.csv")
    assert {"pi10", "opacity_upper"} <= set(table)
    assert not {"panlobular", "interstitial"} & set(table)
