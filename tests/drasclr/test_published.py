"""The authors' checkpoints; that features equal the published computation is in test_exactness."""

import pytest
import torch

from drasclr.published import import_published
from tests.published import SlowEncoder, checkpoint


def test_checkpoints_that_are_none_are_refused_and_nothing_is_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="without executing"):
        import_published(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="encoder_q"):
        import_published(tmp_path / "other.pt")
    incomplete = checkpoint(SlowEncoder(experts=1))
    del incomplete["state_dict"]["module.encoder_q.fc.0.weight"]
    torch.save(incomplete, tmp_path / "incomplete.pt")
    with pytest.raises(ValueError, match=r"lacks 'fc\.0\.weight'"):
        import_published(tmp_path / "incomplete.pt")
