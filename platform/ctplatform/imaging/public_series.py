"""A DICOM series of a public bucket as a local folder; what goes wrong on the way, as a problem of that scan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ctplatform.errors import ScanError
from ctplatform.storage import retry
from ctplatform.storage.capacity import disk_full
from ctplatform.storage.public import PublicPlace
from ctplatform.storage.series_cache import FOLDER_VARIABLE, SIZE_VARIABLE, CacheTooSmallError, SeriesCache


@contextlib.contextmanager
def public_series(place: PublicPlace) -> Iterator[Path]:
    """The series in the node's cache, held there until the context ends.

    Raises:
        ScanError: missing-path (no such series, or images of it vanished), access-denied, io-error, cache-too-small.
    """
    with contextlib.ExitStack() as scope:
        try:
            folder = scope.enter_context(SeriesCache.of_this_node().held(place))
        except FileNotFoundError:
            raise ScanError(
                "the public bucket holds no such series, or some of its images vanished (HTTP 404)",
                "Write the cohort table again from a current index; a series that was revised has a new address",
                code="missing-path",
            ) from None
        except PermissionError:
            raise ScanError(
                "the bucket does not hand out the series without an account (HTTP 403)",
                "Check that the bucket is public; for a private one leave anonymous@ out of the URI",
                code="access-denied",
            ) from None
        except CacheTooSmallError as error:
            raise ScanError(
                f"the cache of {error.limit / 1e9:g} GB has no room for the {error.needed / 1e9:.3f} GB of the series",
                f"Set {SIZE_VARIABLE} to more, a few series for each worker of a node",
                code="cache-too-small",
            ) from None
        except OSError as error:
            if disk_full(error):
                raise ScanError(
                    "the disk of the cache of public series is full",
                    f"Free space there, name another folder with {FOLDER_VARIABLE}, or set {SIZE_VARIABLE} lower",
                    code="io-error",
                ) from None
            raise ScanError(
                f"the public bucket did not deliver the series, tried {retry.ATTEMPTS} time(s) "
                f"({retry.short_reason(error)})",
                "Run the command again when the store is well; this scan is then tried again",
                code="io-error",
            ) from None
        yield folder
