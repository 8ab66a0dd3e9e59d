"""A folder as the Hugging Face Hub takes it, and its upload.

A run's folder also holds logs, settings and checkpoints, which may name paths and people: only the files of the weights
are copied.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.errors import StageError
from ctplatform.storage.layout import CARD_FILE, README_FILE, WEIGHTS_FILE, WEIGHTS_FOLDER

if TYPE_CHECKING:
    from drasclr.sources import Fetch

UNKNOWN = "unknown"
_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_LICENCE = re.compile(r"^[a-z0-9][a-z0-9.-]*$")
_TOKEN = "Create a token with write access on the Hub, then run `hf auth login`, or set HF_TOKEN"


def write_hub_folder(weights: str, folder: str | Path, *, licence: str | None = None) -> dict[str, Any]:
    """Write weights.safetensors, card.json, README.md and the atlas; returns the card.

    Args:
        weights: folder, Hub id or URI.
        folder: is made if it is missing.
        licence: identifier of the Hub, such as cc-by-nc-4.0; None keeps the card's.

    Raises:
        StageError: there are no weights, or they are damaged; the licence is no identifier, or neither given nor
            stated by the card.
    """
    import drasclr
    from drasclr.sources import source

    if licence is not None and not _LICENCE.match(licence):
        raise StageError(
            f"{licence!r} is no identifier of a licence",
            "Use one of the Hub's, such as cc-by-nc-4.0",
            code="usage",
        )
    try:
        drasclr.load(weights)  # compares the SHA-256 of the files with the card
        with source(weights) as fetch:
            content = _files(fetch)
    except (FileNotFoundError, ValueError) as error:
        raise StageError(
            str(error), "Give a folder, Hub id or URI with weights.safetensors and card.json", code="weights"
        ) from None
    card: dict[str, Any] = json.loads(content[CARD_FILE])
    licence = licence or card.get("license", UNKNOWN)
    if licence == UNKNOWN:
        raise StageError(
            "the card of these weights states no licence: they were derived from the training scans, whose terms apply",
            "Give the licence that they allow: --license ID",
            code="usage",
        )
    if card.get("license", UNKNOWN) != licence:
        card["license"] = licence
        content[CARD_FILE] = (json.dumps(card, indent=2) + "\n").encode()
        content[README_FILE] = _licensed(content[README_FILE].decode(), licence).encode()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return card


def push(weights: str, name: str, *, licence: str | None = None, public: bool = False) -> str:
    """Upload weights to a repository of the Hub, which is made if it is missing; returns the address of the commit.

    Args:
        weights: folder, Hub id or URI.
        name: OWNER/NAME.
        licence: as `write_hub_folder` takes it.
        public: of a repository that is made by this call; one that exists stays what it is.

    Raises:
        StageError: as `write_hub_folder`; huggingface_hub is not installed, or the Hub refuses.
    """
    if not _NAME.match(name):
        raise StageError(f"{name!r} is no name of a repository", "Give OWNER/NAME", code="usage")
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]
    except ImportError:
        raise StageError(
            "uploads need huggingface_hub, which is not installed", "pip install 'drasclr[hub]'", code="extra"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        write_hub_folder(weights, folder, licence=licence)
        hub = HfApi(library_name="drasclr")
        try:
            hub.create_repo(name, private=not public, exist_ok=True)
            commit = hub.upload_folder(
                repo_id=name, folder_path=folder, commit_message="Upload weights by drasclr push"
            )
        except LocalTokenNotFoundError:
            raise StageError(
                "the Hub needs a token, and there is none on this machine", _TOKEN, code="hub"
            ) from None
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else "no answer"
            said = error.server_message or str(error).splitlines()[0]
            raise StageError(f"the Hub refuses {name} ({status}): {said}", _TOKEN, code="hub") from None
        except (OSError, HTTPError) as error:  # of the clients that its versions use
            raise StageError(
                f"the Hub cannot be reached: {error}", "Check the network, then run it again", code="hub"
            ) from None
    return str(commit.commit_url)


def _files(fetch: Fetch) -> dict[str, bytes]:
    """Content of the files of the weights; those of older versions have no atlas and no README."""
    found = {}
    for name in WEIGHTS_FOLDER:
        try:
            found[name] = fetch(name).read_bytes()
        except FileNotFoundError:
            if name in (WEIGHTS_FILE, CARD_FILE):
                raise
    if README_FILE not in found:
        from drasclr.card import readme

        found[README_FILE] = readme(json.loads(found[CARD_FILE])).encode()
    return found


def _licensed(readme: str, licence: str) -> str:
    """The model card with a licence in its front matter and in its section; scores and all other text stay."""
    readme = re.sub(r"^license: .*$", f"license: {licence}", readme, count=1, flags=re.M)
    return re.sub(r"(## Licence\n\n).*?\n(?=\n|\Z)", rf"\g<1>`{licence}`\n", readme, count=1, flags=re.S)
