"""Lists of scans: in this process and on Ray the same; a bad scan or a dying worker is a row."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.scan_list import EmbedOptions, embed_here, embed_on_ray, make_embedder


def test_ray_gives_what_this_process_gives_and_continues_past_a_bad_scan(trained, model, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    items = trained[2][["scan_id", "subject_id", "path", "series_uid"]].fillna("").to_dict("records")[:2]
    items.insert(
        1, {"scan_id": "bad", "subject_id": "bad", "path": str(tmp_path / "bad.nii.gz"), "series_uid": ""}
    )
    here = dict(embed_here(model, items, EmbedOptions()))
    there = dict(embed_on_ray(model, items, EmbedOptions(), workers=2))
    assert set(here) == set(there) == {0, 1, 2}
    for number, scan in here.items():
        assert there[number].row["state"] == scan.row["state"]
        assert there[number].has_vectors == scan.has_vectors == (number != 1)
    np.testing.assert_allclose(there[2].embedding.patient_P, here[2].embedding.patient_P, atol=1e-6)


@pytest.mark.usefixtures("ray_local")
def test_what_concerns_all_scans_ends_the_command(model):
    item = {"scan_id": "a", "subject_id": "p", "path": "a.nii.gz", "series_uid": ""}
    with pytest.raises(StageError, match="pooling"):
        list(embed_on_ray(model, [item], EmbedOptions(pooling="max"), workers=1))


def test_a_missing_gpu_is_said(model):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        assert make_embedder(model, EmbedOptions(device="cuda")).model is model
        model.to("cpu")
    else:
        with pytest.raises(StageError, match="drasclr doctor"):
            make_embedder(model, EmbedOptions(device="cuda"))
