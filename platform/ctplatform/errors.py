"""Errors that the user can act on: what is wrong and what to do about it."""

from __future__ import annotations

import re

#: Exit status that requests a restart: EX_TEMPFAIL of sysexits.h.
RESTART_STATUS = 75
#: KEY:SECRET@ behind a scheme; a number and a slash behind the colon are the port of a host.
_KEY_AND_SECRET = re.compile(r"(?<=://)[^\s/@:'\"]*:(?!\d+(?:/|$|\s))[^\s@'\"]*@")
_USER = re.compile(r"(?<=://)[^\s/@'\"]*@")
_SECRET_OPTION = re.compile(
    r"\b((?:access|secret|session|account)_(?:key|token)|password|token)=[^&\s'\"]+", re.I
)


class PlatformError(Exception):
    """A problem that the user can act on.

    Args:
        problem: what is wrong, with the offending value; one sentence without a full stop.
        remedy: what to do about it; one sentence without a full stop.
        code: short stable name of the kind of problem ("truncated", "not-3d", ...), for ledgers and tests.
    """

    def __init__(self, problem: str, remedy: str, *, code: str = "error") -> None:
        problem, remedy = without_credentials(problem), without_credentials(remedy)
        # The remedy of a list of problems is a line of its own.
        super().__init__(("\n" if "\n" in problem else " ").join(map(_sentence, (problem, remedy))))
        self.problem = problem
        self.remedy = remedy
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.remedy, self.code)


def without_credentials(text: str) -> str:
    """A text whose URIs name no user, key, secret or token; secrets of object stores may hold slashes."""
    return _SECRET_OPTION.sub(r"\1=***", _USER.sub("", _KEY_AND_SECRET.sub("", text)))


def _sentence(text: str) -> str:
    text = text.rstrip(".")
    return text if text.endswith(("?", "!")) else f"{text}."


def _rebuild(kind: type[PlatformError], problem: str, remedy: str, code: str) -> PlatformError:
    return kind(problem, remedy, code=code)


class ScanError(PlatformError):
    """One scan cannot be used; its ledger row says `failed`, and the other scans are prepared."""


class RestartRequested(PlatformError):
    """The process was requested to end and has stored its work; a batch system should start it again."""


class CohortError(PlatformError):
    """The scan table itself cannot be used."""


class ConfigError(PlatformError):
    """The recipe or an override cannot be used."""


class PreflightError(PlatformError):
    """Something that is known before a run starts keeps it from ending well; nothing was started."""


class StageError(PlatformError):
    """A stage of the chain cannot run or found nothing to work on."""
