"""Keyed pseudonyms of subjects: the same person gets the same one, and only the key links it to the PatientID.

HMAC-SHA256 (RFC 2104) of the PatientID. A plain hash would not protect: patient numbers are few enough to try all.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from ctplatform.errors import CohortError

KEY_BYTES = 32

_PLACEHOLDERS = {
    "", "ANON", "ANONYM", "ANONYMOUS", "ANONYMIZED", "ANONYMISED", "ANONYMIZE", "ANONYMISE", "ANONYMIZEDPATIENT",
    "ANONYMOUSPATIENT", "ANONPATIENT", "UNKNOWN", "NONE", "NA", "NAN", "NULL", "NIL", "REMOVED", "DEIDENTIFIED", "DEID",
    "DEIDENTIFY", "REDACTED", "MASKED", "HIDDEN", "DELETED", "BLANK", "EMPTY", "CONFIDENTIAL", "WITHHELD", "CLEANED",
    "PATIENT", "PATIENTID", "PATID", "SUBJECT", "SUBJECTID", "ID", "NOID", "NOPATIENTID", "UNDEFINED", "DEFAULT",
    "NAME", "NONAME", "NO", "JOHNDOE", "DOEJOHN", "JANEDOE", "DOEJANE", "PRIVATE", "SECRET", "ANONYME", "ANONYMISIERT",
    "UNBEKANNT", "INCONNU", "ANONIMO", "ANONIMIZADO", "ANONIMIZZATO", "DESCONOCIDO", "DUMMY", "NOTAVAILABLE",
    "NOTSPECIFIED", "UNSPECIFIED", "PSEUDONYM", "TEST", "NOVALUE",
}  # fmt: skip
"""PatientIDs, letters and digits alone in upper case, that stand for no person, as do several of these words."""

_REPEATED = re.compile(r"0+|X+|([A-Z])\1{2,}|9{4,}|(\d)\2{5,}")


def temporary_key() -> bytes:
    """A random key that is not stored."""
    return secrets.token_bytes(KEY_BYTES)


def read_or_make_key(path: Path) -> bytes:
    """The key in a file; if the file does not exist, a new key is written to it, readable by its owner only.

    Raises:
        CohortError: the file holds no key, or cannot be written.
    """
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        try:
            key = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise CohortError(
                f"{path} holds no pseudonym key",
                "Restore it; or remove it to get new subject names",
                code="key",
            ) from None
        return key
    except OSError as error:
        raise _not_writable(path, error) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        key = temporary_key()
        stream.write(key.hex() + "\n")
    return key


def pseudonym(patient_id: str, *, key: bytes) -> str:
    """`sub-` and 12 hex digits; case and repeated or outer blanks of the PatientID make no difference."""
    normal = " ".join(patient_id.upper().split())
    return "sub-" + hmac.new(key, normal.encode(), hashlib.sha256).hexdigest()[:12]


def is_placeholder(patient_id: str) -> bool:
    """Whether a PatientID names no person: words of anonymisation, zeros, one sign over and over, or 123456 and so on.

    Args:
        patient_id: as `Series.patient_id`: after the issuer and a line break where there is one.
    """
    words = re.findall(r"[^\W_]+", patient_id.split("\n")[-1].upper())
    plain = "".join(words)
    return (
        plain in _PLACEHOLDERS
        or all(word in _PLACEHOLDERS for word in words)
        or bool(_REPEATED.fullmatch(plain))
        or (len(plain) > 5 and plain in "1234567890")
    )


def _not_writable(path: Path, error: OSError) -> CohortError:
    return CohortError(
        f"the pseudonym key {path} cannot be written: {error}", "Choose another place", code="key"
    )
