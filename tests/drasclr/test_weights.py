import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import drasclr
from drasclr import weights
from drasclr.atlas import Atlas
from drasclr.card import readme
from drasclr.encoder import Encoder
from tests.ctplatform.objectstore import ObjectStore

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


def test_a_complete_folder_brings_its_atlas(tmp_path, caplog):
    encoder = Encoder(experts=2)
    weights.save(
        tmp_path, encoder, {**CARD, "atlas_hash": atlas().hash}, atlas=atlas(), template=b"a compressed NIfTI"
    )
    read = drasclr.load(tmp_path)
    assert read.atlas.hash == atlas().hash
    assert read.template == b"a compressed NIfTI"
    assert set(read.card["files"]) == {"weights.safetensors", "atlas.json", "lung_mask.nii.gz"}
    assert "embed_scan" in (tmp_path / "README.md").read_text()
    assert caplog.records == []
    with pytest.raises(ValueError, match="trained with atlas"):
        weights.files(encoder, {**CARD, "atlas_hash": "0" * 64}, atlas=atlas())


def test_weights_without_an_atlas_say_what_they_cannot_do_and_take_one(tmp_path, caplog):
    weights.save(tmp_path / "old", Encoder(experts=1), {**CARD, "atlas_hash": atlas().hash})
    assert drasclr.load(tmp_path / "old").atlas is None
    assert "cannot embed a scan" in caplog.text
    assert "folder atlas/ of its workspace" in caplog.text
    (tmp_path / "atlas").mkdir()
    atlas().save(tmp_path / "atlas" / "atlas.json")
    with pytest.raises(FileNotFoundError, match=r"no lung_mask\.nii\.gz"):
        drasclr.load(tmp_path / "old", atlas=tmp_path / "atlas")
    (tmp_path / "atlas" / "lung_mask.nii.gz").write_bytes(b"template")
    read = drasclr.load(tmp_path / "old", atlas=str(tmp_path / "atlas"))
    assert (read.atlas.hash, read.template) == (atlas().hash, b"template")
    atlas(5).save(tmp_path / "atlas" / "atlas.json")
    with pytest.raises(ValueError, match="trained with atlas"):
        drasclr.load(tmp_path / "old", atlas=tmp_path / "atlas")


@pytest.mark.parametrize("name", ["weights.safetensors", "atlas.json", "lung_mask.nii.gz"])
def test_files_of_other_weights_and_missing_files_are_said(tmp_path, name):
    for folder, template in (("one", b"1"), ("other", b"2")):
        number = 4 if folder == "one" else 5
        weights.save(tmp_path / folder, Encoder(experts=1), CARD, atlas=atlas(number), template=template)
    (tmp_path / "one" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=rf"{name} .* SHA-256"):
        drasclr.load(tmp_path / "one")
    (tmp_path / "one" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        drasclr.load(tmp_path / "one")


def test_weights_are_read_from_an_object_store(tmp_path):
    weights.save(tmp_path, Encoder(experts=1), CARD, atlas=atlas(), template=b"template")
    store = ObjectStore()
    try:
        store.load(tmp_path, "runs/one")
        read = drasclr.load(store.uri("runs/one"))
        assert (read.atlas.hash, read.template) == (atlas().hash, b"template")
        del store.objects["runs/one/atlas.json"]
        with pytest.raises(FileNotFoundError, match=r"has no atlas\.json, which its card\.json states"):
            drasclr.load(store.uri("runs/one"))
        with pytest.raises(FileNotFoundError, match=r"has no card\.json"):
            drasclr.load(store.uri("runs/none"))
    finally:
        store.close()
    with pytest.raises(FileNotFoundError, match="nowhere://x/y cannot be opened"):
        drasclr.load("nowhere://x/y")


def test_the_readme_states_licence_training_data_and_scores():
    provenance = {"scans": 12, "subjects": 10, "steps": 300}
    card = {**CARD, "provenance": provenance, "license": "cc-by-4.0"}
    content = weights.files(Encoder(experts=1), card)
    text = content["README.md"].decode()
    assert "\nlicense: cc-by-4.0\n" in text.split("# DrasCLR")[0]
    assert "12 scans of 10 subjects, 300 optimiser steps" in text
    row = {
        "task": "emphysema",
        "metric": "auc",
        "value": 0.81,
        "low": 0.7,
        "high": 0.9,
        "labels": 20,
        "subjects": 8,
    }
    scored = readme(json.loads(content["card.json"]), results=[row])
    assert "| emphysema | auc | 0.810 | 0.700 to 0.900 | 20 | 8 |" in scored
    assert "license: unknown" in weights.files(Encoder(experts=1), CARD)["README.md"].decode()


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
