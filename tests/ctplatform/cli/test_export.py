"""`drasclr export`: the folder's name, and errors that say what to do."""

from __future__ import annotations

import pytest

from ctplatform.cli.main import main
from drasclr import weights
from drasclr.encoder import Encoder


def test_onnx_beside_the_current_folder(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnx")
    weights.save(tmp_path / "RUN", Encoder(2), {})
    monkeypatch.chdir(tmp_path)
    main(["export", "RUN/", "--to", "onnx"])
    assert (tmp_path / "RUN-onnx" / "encoder.onnx").stat().st_size > 1e6
    assert "opset 17" in capsys.readouterr().out


def test_a_bundle_of_weights_without_an_atlas_is_refused(tmp_path, capsys):
    weights.save(tmp_path / "run", Encoder(1, "none"), {})
    with pytest.raises(SystemExit) as end:
        main(["export", str(tmp_path / "run"), "--to", "monai-bundle", "-o", str(tmp_path / "out")])
    assert end.value.code == 1
    assert "--atlas" in capsys.readouterr().err


def test_no_weights_there(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "none"), "--to", "onnx"])
    assert "there is no folder" in capsys.readouterr().err
