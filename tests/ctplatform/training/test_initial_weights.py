"""Pretraining starts from given weights: those of this project, or a published checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ctplatform.cli.main import main
from ctplatform.config.loader import validate
from ctplatform.dataset.atlas import image_to_bytes, read_atlas
from ctplatform.errors import ConfigError, StageError
from ctplatform.preparation.atlas import PUBLISHED_CORNERS, PUBLISHED_TEMPLATE
from ctplatform.storage.workspace import Workspace
from ctplatform.training.initial_weights import keep_initial, kept_and_new, read_given, read_initial
from ctplatform.training.runs import run_name
from drasclr import weights
from drasclr.encoder import Encoder
from tests.ctplatform.training_world import recipe_with, run_loop, small_atlas, training_workspace
from tests.published import SlowEncoder, checkpoint

CARD = {"hu_window": [-1024, 240], "spacing_mm": 1.0, "patch_size": 32}
KEYS = ("pretrain.encoder.norm=batch", "pretrain.encoder.experts=2")


@pytest.fixture
def given(tmp_path):
    """A folder of weights, and their encoder."""
    torch.manual_seed(5)
    encoder = Encoder(2)
    weights.save(tmp_path / "given", encoder, {**CARD, "atlas_hash": "a" * 64})
    return tmp_path / "given", encoder


def test_a_run_starts_from_them_and_names_them(given, tmp_path):
    folder, encoder = given
    workspace = training_workspace(tmp_path / "ws")
    recipe = recipe_with(*KEYS, f"pretrain.init={folder}", "pretrain.lr=1e-12", "pretrain.max_steps=1")
    keep_initial(workspace, recipe, "test")
    loop = run_loop(workspace, recipe)
    for name, value in loop.model.query.named_parameters():
        torch.testing.assert_close(value, encoder.state_dict()[name], atol=1e-9, rtol=1e-9, msg=name)
    for name, value in loop.model.key.named_parameters():
        torch.testing.assert_close(value, encoder.state_dict()[name], atol=1e-9, rtol=1e-9, msg=name)
    initial = workspace.read_json("pretrain", "test", "card.json")["provenance"]["initial"]
    assert initial["source"] == "given"
    assert "projection head" in initial["kept"]
    assert any(f"learned with {'a' * 12}" in line for line in initial["new"])
    assert run_name(workspace, recipe) != run_name(workspace, recipe_with(*KEYS, "pretrain.lr=1e-12"))


def test_changed_weights_of_the_same_name_are_refused(given, tmp_path):
    folder, _ = given
    workspace = training_workspace(tmp_path / "ws")
    recipe = recipe_with(*KEYS, f"pretrain.init={folder}")
    keep_initial(workspace, recipe, "run")
    keep_initial(workspace, recipe, "run")
    weights.save(folder, Encoder(2), CARD)
    with pytest.raises(StageError, match="other weights than those"):
        keep_initial(workspace, recipe, "run")
    assert read_initial(workspace, "another") is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pretrain.encoder.experts=3", "experts 2, and the recipe has 3. Set pretrain.encoder.experts=2"),
        ("prepare.hu_window=[-1000,400]", r"HU window \[-1024, 240\], and the recipe has \[-1000, 400\]"),
        ("pretrain.init=nothing/here/at/all", "pretrain.init: there is no folder"),
    ],
)
def test_what_does_not_fit_is_refused(given, tmp_path, override, message):
    recipe = recipe_with(*KEYS, f"pretrain.init={given[0]}", override)
    with pytest.raises(StageError, match=message):
        keep_initial(Workspace(tmp_path / "ws"), recipe, "run")


def test_the_same_locations_are_kept(given):
    _, encoder = given
    atlas = small_atlas()
    encoder.card = {**CARD, "atlas_hash": atlas.hash}
    assert "atlas" in kept_and_new(encoder, atlas)[0]
    encoder.card, encoder.atlas = {**CARD, "atlas_hash": "b" * 64}, atlas
    assert "locations of the atlas" in kept_and_new(encoder, atlas)[0]
    encoder.card, encoder.atlas = CARD, None
    assert any("do not say" in line for line in kept_and_new(encoder, atlas)[1])


def test_ablations_do_not_start_from_them():
    with pytest.raises(ConfigError, match="ablations start from random weights"):
        validate({"pretrain": {"init": "w"}, "sweep": {"ablations": ["local"]}})


def test_a_published_checkpoint_is_imported_with_its_atlas(tmp_path, lungs_ZYX, capsys):
    import SimpleITK as sitk

    torch.manual_seed(0)
    slow = SlowEncoder(experts=2).eval()
    torch.save(checkpoint(slow), tmp_path / "checkpoint.pth.tar")
    template = sitk.GetImageFromArray(lungs_ZYX)
    template.SetSpacing((4.0, 4.0, 4.0))
    folder = tmp_path / "atlas"
    folder.mkdir()
    (folder / PUBLISHED_TEMPLATE).write_bytes(image_to_bytes(template))
    corners = np.array([[10, 20, 30], [40, 20, 10], [12, 14, 16]])
    np.save(folder / PUBLISHED_CORNERS, corners)
    main(
        ["import", str(tmp_path / "checkpoint.pth.tar"), "-o", str(tmp_path / "out"), "--atlas", str(folder)]
    )
    assert "epoch 20, 2 experts" in capsys.readouterr().out
    encoder = read_given(str(tmp_path / "out"))
    np.testing.assert_array_equal(encoder.atlas.corners_N3, corners)
    assert encoder.card["atlas_hash"] == encoder.atlas.hash
    patches, locations = torch.rand(2, 1, 32, 32, 32), torch.rand(2, 3)
    direct = read_given(str(tmp_path / "checkpoint.pth.tar"))
    with torch.no_grad():
        expected = slow(patches, locations)[1]
        for found in (encoder, direct):
            torch.testing.assert_close(found(patches, locations), expected, rtol=1e-4, atol=1e-5)
    main(["import", str(tmp_path / "checkpoint.pth.tar"), "-o", str(tmp_path / "bare")])
    assert "embeds no scan" in capsys.readouterr().out
    assert "atlas_hash" not in json.loads((tmp_path / "bare" / "card.json").read_text())
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path / "none.pth"), "-o", str(tmp_path / "x")])
    assert "there is no checkpoint" in capsys.readouterr().err


def test_the_atlas_of_a_workspace_is_another(given, tmp_path):
    workspace = training_workspace(tmp_path / "ws")
    kept, new = kept_and_new(given[1], read_atlas(workspace))
    assert "key memory" in new
    assert "encoder with its routing by location" in kept
