"""Problems of an import; what it writes is tested with what starts from it (training/test_initial_weights)."""

import pytest
import torch

from ctplatform.cli.import_weights import import_checkpoint
from ctplatform.errors import StageError
from tests.published import SlowEncoder, checkpoint


def test_what_is_no_checkpoint_or_no_atlas_is_said(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(StageError, match="no torch checkpoint"):
        import_checkpoint(str(tmp_path / "text.pth"), str(tmp_path / "out"))
    torch.save(checkpoint(SlowEncoder(experts=1)), tmp_path / "good.pth")
    with pytest.raises(StageError, match="holds no atlas"):
        import_checkpoint(str(tmp_path / "good.pth"), str(tmp_path / "out"), atlas=str(tmp_path))
    assert not (tmp_path / "out").exists()
