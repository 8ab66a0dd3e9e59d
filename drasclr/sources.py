"""Where weights lie: a folder, a repository on the Hugging Face Hub, or a prefix of an object store."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

HUB_ID = re.compile(r"^hf://(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")

Fetch = Callable[[str], Path]
"""Name of a file of the weights -> where it lies on this machine. Raises FileNotFoundError: with `filename` if only
this file is missing, without it if the place cannot be reached."""


@contextlib.contextmanager
def source(path: str | Path) -> Iterator[Fetch]:
    """Access to the files of weights, wherever they are, while the context lasts."""
    local = Path(path)
    match = HUB_ID.match(str(path))
    if local.is_dir() or local.is_file():
        folder = local if local.is_dir() else local.parent
        yield lambda name: folder / name
    elif match:
        yield _hub(str(path), match["name"], match["revision"])
    elif _URI.match(str(path)):
        with tempfile.TemporaryDirectory() as temporary:
            yield _object_store(str(path), Path(temporary))
    else:
        raise FileNotFoundError(
            f"there is no folder {path}; weights on the Hugging Face Hub are named hf://owner/name"
        )


def _hub(path: str, name: str, revision: str | None) -> Fetch:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FileNotFoundError(
            f"there is no folder {path}; to look for it on the Hugging Face Hub, install huggingface_hub "
            "(pip install 'drasclr[hub]')"
        ) from None
    commit = revision

    def fetch(file: str) -> Path:
        nonlocal commit
        try:
            found = Path(hf_hub_download(name, file, revision=commit))
        except (OSError, ValueError) as error:  # what the Hub's client raises is one of the two
            raise FileNotFoundError(
                f"{path} could not be loaded from the Hugging Face Hub: {error}"
            ) from error
        # The folder of a snapshot is named by its commit: all files of the same one, whatever is pushed meanwhile.
        commit = found.parent.name
        return found

    return fetch


def _object_store(uri: str, folder: Path) -> Fetch:
    shown = re.sub(r"(?<=://)[^/@]*@", "", uri.partition("?")[0])  # without credentials and options
    try:
        from pyarrow import fs
    except ImportError:
        raise FileNotFoundError(f"to read {shown}, install pyarrow (pip install pyarrow)") from None
    try:
        store, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{shown} cannot be opened: {error}") from None

    def fetch(file: str) -> Path:
        target = folder / file
        try:
            with store.open_input_stream(f"{root.rstrip('/')}/{file}", compression=None) as stream:
                target.write_bytes(stream.read())
        except FileNotFoundError:
            raise FileNotFoundError(2, "no such file", file) from None
        except OSError as error:
            raise FileNotFoundError(f"{shown}/{file} cannot be read: {error}") from error
        return target

    return fetch
