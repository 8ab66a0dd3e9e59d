"""Random cards, recipes, scan tables and image headers: one clear error or a right result, never another exception.

Draws are made by hypothesis, from values of every kind in every place and from mutations of good files. Each input is
small; a draw that takes more than a second or more than 1 GiB is a failure as well.

    python -m tests.benchmarks.fuzz --draws 10000
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

from ctplatform.cohort.table import read_cohort
from ctplatform.config.loader import load_recipe, validate
from ctplatform.config.recipe import Recipe
from ctplatform.config.section import flatten
from ctplatform.errors import CohortError, ConfigError, ScanError
from ctplatform.imaging.volume import read_volume
from drasclr.card import FORMAT, parsed_card
from tests.benchmarks.drawing import draw
from tests.benchmarks.peak import peak_mib

MAX_BYTES = 1 << 30
#: Of one draw; generous, as machines are shared.
MAX_SECONDS = 30.0

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["../../x", "~", "/dev/zero", "s3://K:S/E@b", "1e400", "nan", "-0", "\x00", "‮", "=", "2020-99-99"]
    ),
)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CARD: dict[str, Any] = {
    "format": FORMAT,
    "encoder": {"experts": 2, "conditioning": "experts", "norm": "batch", "features": 128},
    "atlas_hash": "ab" * 32,
    "patch_size": 32,
    "spacing_mm": 1.0,
    "hu_window": [-1024, 240],
}
NIFTI_BYTES, TEXT_BYTES = 352, 600


def _paths(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [prefix]
    return [prefix, *(path for key, inner in value.items() for path in _paths(inner, (*prefix, key)))]


def changed(plain: dict[str, Any], path: tuple[str, ...], value: Any) -> Any:
    """A copy of nested values with one of them replaced."""
    if not path:
        return value
    return {**plain, path[0]: changed(plain[path[0]], path[1:], value)}


def _mutations(good: bytes) -> st.SearchStrategy[bytes]:
    """A good file with some bytes of its header changed, or cut, or with more behind it."""
    places = st.integers(0, max(0, min(len(good), NIFTI_BYTES) - 1))
    edits = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=6)

    def edited(draw: tuple[list[tuple[int, int]], int, bytes]) -> bytes:
        changes, cut, more = draw
        data = bytearray(good)
        for place, value in changes:
            data[place] = value
        return bytes(data[: len(data) - cut]) + more

    return st.tuples(
        edits, st.sampled_from([0, 0, 1, 100, len(good) // 2]), st.sampled_from([b"", b"", b"\0" * 9])
    ).map(edited)


def _text_header(lines: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Lines of a header, one or two of whose values are replaced, or which are left out or repeated."""
    edit = st.tuples(st.integers(0, len(lines) - 1), values)

    def edited(edits: list[tuple[int, str]]) -> list[str]:
        found = list(lines)
        for place, value in edits:
            mark = ":" if ":" in found[place] else "="
            name = found[place].partition(mark)[0]
            found[place] = f"{name}{mark} {value}" if value else ""
        return [line for line in found if line]

    return st.lists(edit, min_size=1, max_size=2).map(edited)


HEADER_VALUES = st.one_of(
    st.integers(-(10**12), 10**12).map(str),
    st.floats().map(str),
    st.lists(st.integers(-5, 5000).map(str), max_size=5).map(" ".join),
    st.text("0123456789 ()-.,eE%dxnaLISTMET_\"", max_size=16),
    st.sampled_from(
        ["", "LIST", "LOCAL", "../x.raw", "/etc/passwd", "/dev/zero", "x%d.raw 1 999999999 1", "1290 1290 1290",
         "nan nan nan", "gzip", "bzip2", "raw", "double", "MET_DOUBLE", "True", "none none none", "3", "1", "17"]
    ),
)  # fmt: skip
_NRRD = [
    "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 12 12 12",
    "space directions: (20,0,0) (0,20,0) (0,0,20)", "kinds: domain domain domain", "endian: little", "encoding: raw",
    "space origin: (0,0,0)",
]  # fmt: skip
_META = [
    "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False", "CompressedData = False",
    "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 20 20 20", "DimSize = 12 12 12",
    "ElementType = MET_SHORT", "ElementDataFile = LOCAL",
]  # fmt: skip


def _voxels() -> bytes:
    rng = np.random.default_rng(0)
    hu_ZYX = rng.integers(-1000, 200, (12, 12, 12)).astype("<i2")
    hu_ZYX[:3] = -1000
    return hu_ZYX.tobytes()


def _nifti() -> bytes:
    import nibabel as nib

    image = nib.Nifti1Image(
        np.frombuffer(_voxels(), "<i2").reshape(12, 12, 12).T, np.diag([20.0, 20.0, 20.0, 1.0])
    )
    return bytes(image.to_bytes())


def card_draw(value: tuple[tuple[str, ...], Any] | bytes) -> None:
    """A changed card, or any bytes."""
    data = value if isinstance(value, bytes) else json.dumps(changed(CARD, *value)).encode()
    try:
        card = parsed_card(data, name="card.json")
    except ValueError:
        return
    assert isinstance(card["encoder"]["experts"], int)


def recipe_draw(folder: Path, value: tuple[tuple[str, ...], Any] | str) -> None:
    """A changed recipe as a file, an override, or any text."""
    file = folder / "recipe.yaml"
    try:
        if isinstance(value, str):
            file.write_text(value, encoding="utf-8", errors="replace")
            recipe = load_recipe(str(file))
        else:
            path, inner = value
            recipe = validate(changed(Recipe().model_dump(mode="json"), path, inner))
            if path:
                load_recipe("fast", [f"{'.'.join(path)}={yaml.safe_dump(inner)}"])
    except ConfigError as error:
        if len(str(error)) > 20_000:
            raise AssertionError("a message of many pages") from error
        return
    assert "/" not in recipe.name
    json.dumps(flatten("", recipe.model_dump(mode="json")), allow_nan=False)


def table_draw(folder: Path, rows: list[list[str]] | bytes) -> None:
    """A scan table of any cells, or any bytes."""
    file = folder / "cohort.csv"
    if isinstance(rows, bytes):
        file.write_bytes(rows)
    else:
        text = "\n".join(",".join(row) for row in rows)
        file.write_text(text, encoding="utf-8", errors="replace")
    try:
        table = read_cohort(file)
    except CohortError:
        return
    assert table["scan_id"].is_unique
    assert all("/" not in scan for scan in table["scan_id"])


def scan_draw(folder: Path, name: str, data: bytes) -> None:
    """A file that claims to be a scan."""
    file = folder / name
    file.write_bytes(data)
    try:
        volume = read_volume(file)
    except ScanError:
        return
    assert all(size >= 10 for size in volume.image.GetSize())


def draws(folder: Path) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]]:
    """Kind of input -> its draws, and what is done with one."""
    cells = st.sampled_from(
        ["a", "A", "b", "1", "007", "", "x.nii.gz", "../x", "state", "nan", "1e999", '"', '""', "é", "\x00", "a\x00"]
    ) | st.text(max_size=5)  # fmt: skip
    header = st.sampled_from(
        [["scan_id", "path"], ["scan_id", "subject_id", "path", "x"], ["scan_id", "path", "path"], ["a;b"], []]
    ) | st.lists(cells, max_size=4)  # fmt: skip
    tables = st.tuples(header, st.lists(st.lists(cells, max_size=4), max_size=5)).map(lambda t: [t[0], *t[1]])
    plain = Recipe().model_dump(mode="json")
    nifti, voxels = _nifti(), _voxels()
    nrrd = _text_header(_NRRD, HEADER_VALUES).map(
        lambda found: ("NRRD0004\n" + "\n".join(found) + "\n\n").encode() + voxels
    )
    meta = _text_header(_META, HEADER_VALUES).map(lambda found: ("\n".join(found) + "\n").encode() + voxels)
    return {
        "card": (st.tuples(st.sampled_from(_paths(CARD)), ANY) | st.binary(max_size=60), card_draw),
        "recipe": (
            st.tuples(st.sampled_from(_paths(plain)), ANY) | st.text(max_size=60) | ANY.map(yaml.safe_dump),
            lambda value: recipe_draw(folder, value),
        ),
        "table": (tables | st.binary(max_size=80), lambda value: table_draw(folder, value)),
        "nifti": (_mutations(nifti), lambda data: scan_draw(folder, "a.nii", data)),
        "nifti-gz": (
            _mutations(nifti).map(gzip.compress) | _mutations(gzip.compress(nifti)),
            lambda data: scan_draw(folder, "a.nii.gz", data),
        ),
        "nrrd": (nrrd, lambda data: scan_draw(folder, "a.nrrd", data)),
        "metaimage": (meta, lambda data: scan_draw(folder, "a.mha", data)),
    }


def fuzz(kind: str, count: int) -> dict[str, float]:
    """Make so many draws of one kind.

    Returns:
        draws, seconds, and the largest memory of this process so far, MiB.

    Raises:
        Exception: whatever the first draw raised that is not the error of its kind; hypothesis prints the draw.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        strategy, check = draws(Path(name))[kind]

        def timed(value: Any) -> None:
            begun = time.monotonic()
            check(value)
            assert time.monotonic() - begun < MAX_SECONDS

        begun = time.monotonic()
        made = draw(strategy, timed, count)
        peak = peak_mib() * 2**20
        assert peak < MAX_BYTES, f"{peak / 2**20:.0f} MiB"
        return {"draws": made, "seconds": time.monotonic() - begun, "peak_mib": peak / 2**20}


def main() -> None:
    """Fuzz all kinds, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000, help="over all kinds (default: %(default)s)")
    parser.add_argument("--kind", action="append", help="only these")
    args = parser.parse_args()
    kinds = args.kind or list(draws(Path()))
    for kind in kinds:
        found = fuzz(kind, -(-args.draws // len(kinds)))
        print(
            f"{kind:<10} {found['draws']:>6} draws in {found['seconds']:.1f} s, at most {found['peak_mib']:.0f} MiB",
            flush=True,
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
