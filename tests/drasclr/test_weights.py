import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import drasclr
from drasclr import weights
from drasclr.atlas import Atlas
from drasclr.encoder import Encoder
from tests.published import SlowEncoder, checkpoint

CARD = {"spacing_mm": 1.0, "hu_window": [-1024, 240], "patch_size": 32, "provenance": {"run": "test"}}


def atlas(count: int = 4) -> Atlas:
    return Atlas(
        size=(99, 99, 99),
        spacing=(1, 1, 1),
        origin=(0, 0, 0),
        direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
        corners_N3=np.arange(3 * count).reshape(count, 3),
        neighbours_NK=np.zeros((count, 0)),
        blocks_N=np.zeros(count),
        template_sha256="",
    )


@pytest.mark.parametrize(
    "encoder",
    [
        Encoder(experts=2),
        Encoder(conditioning="concat"),
        Encoder(conditioning="none", norm="group"),
        Encoder(2).double(),
    ],
    ids=["experts", "concat", "group", "float64"],
)
def test_written_equals_read(encoder, tmp_path):
    weights.save(tmp_path / "hub", encoder, CARD)
    assert {file.name for file in (tmp_path / "hub").iterdir()} == {
        "weights.safetensors",
        "card.json",
        "README.md",
    }
    read = drasclr.load(tmp_path / "hub")
    assert not read.training
    assert read.card["provenance"] == {"run": "test"}
    assert (read.conditioning, read.norm, read.experts) == (
        encoder.conditioning,
        encoder.norm,
        encoder.experts,
    )
    dtype = next(encoder.parameters()).dtype
    patches, locations = torch.rand(2, 1, 32, 32, 32, dtype=dtype), torch.rand(2, 3, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(read(patches, locations), encoder.eval()(patches, locations))


def test_wrong_atlas_window_or_spacing_is_said(tmp_path):
    weights.save(tmp_path, Encoder(experts=1), {**CARD, "atlas_hash": atlas().hash})
    assert drasclr.load(tmp_path, atlas=atlas(), hu_window=(-1024, 240), spacing_mm=1.0)
    for wrong, message in (
        ({"atlas": atlas(5)}, "trained with atlas"),
        ({"hu_window": (-1000, 400)}, r"HU window \[-1024, 240\]"),
        ({"spacing_mm": 0.5}, "trained at 1.0 mm"),
    ):
        with pytest.raises(ValueError, match=message):
            drasclr.load(tmp_path, **wrong)


def test_damaged_or_missing_files_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        drasclr.load(tmp_path / "nothing here")
    with pytest.raises(FileNotFoundError, match=r"no card\.json"):
        drasclr.load(tmp_path)
    weights.save(tmp_path, Encoder(experts=1), CARD)
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged"):
        drasclr.load(tmp_path)
    weights.save(tmp_path, Encoder(experts=1), CARD)
    card = json.loads((tmp_path / "card.json").read_text())
    card["encoder"]["experts"] = 3
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="does not fit its card"):
        drasclr.load(tmp_path)


def test_checkpoints_that_are_none_are_refused_and_nothing_is_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="without executing"):
        weights.import_published(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="encoder_q"):
        weights.import_published(tmp_path / "other.pt")
    incomplete = checkpoint(SlowEncoder(experts=1))
    del incomplete["state_dict"]["module.encoder_q.fc.0.weight"]
    torch.save(incomplete, tmp_path / "incomplete.pt")
    with pytest.raises(ValueError, match=r"lacks 'fc\.0\.weight'"):
        weights.import_published(tmp_path / "incomplete.pt")


ALONE = """
import importlib.metadata as metadata, re, sys

def needed(name, found):
    name = re.split(r"[^A-Za-z0-9._-]", name)[0].lower().replace("_", "-")
    if name not in found:
        found.add(name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            return
        for requirement in requires:
            if "extra ==" not in requirement:
                needed(requirement, found)

allowed = set()
for name in ("torch", "numpy", "safetensors"):
    needed(name, allowed)

class Absent:
    barred = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
    } - {"drasclr"} | {"ctplatform"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.barred:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

assert {"ray", "monai", "scipy", "pandas", "SimpleITK", "ctplatform"} <= Absent.barred
sys.meta_path.insert(0, Absent())
import drasclr
assert "torch" not in sys.modules
import torch
from drasclr import augment, contrast, encoder, heads, monitor, weights
model = contrast.DrasCLR(
    encoder=encoder.Encoder(experts=2), coordinates_N3=torch.rand(3, 3), neighbours_NK=torch.tensor([[1], [2], [0]]),
    queue_size=4, batch_negatives=True,
)
locations, scans = torch.tensor([0, 2]), torch.arange(2)
hu = torch.randint(-1024, 240, (2, 2, 32, 32, 32), dtype=torch.int16)
views = [
    augment.apply(hu, augment.draw(seed=0, epoch=0, scans=scans, locations=locations, view=view)) for view in range(3)
]
result = model(views[0], views[1], views[2][:, None], locations, scans)
result.loss.backward()
model.memory.enqueue(locations, result.keys_GSD, scans)
weights.save(sys.argv[1], model.query, {"spacing_mm": 1.0})
loaded = drasclr.load(sys.argv[1])
assert loaded(views[0].flatten(0, 1), torch.rand(4, 3)).shape == (4, 128)
assert drasclr.Atlas.__name__ == "Atlas"
try:
    heads.Segmenter(loaded, classes=2)
except ModuleNotFoundError as error:
    assert error.name.startswith("monai")
"""


def test_the_method_runs_where_only_torch_numpy_and_safetensors_are_installed(tmp_path):
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path / "weights")], check=True)
