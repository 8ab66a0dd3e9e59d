"""Errors that the user can act on: what is wrong and what to do about it."""

from __future__ import annotations

#: Exit status that requests a restart: EX_TEMPFAIL of sysexits.h.
RESTART_STATUS = 75


class PlatformError(Exception):
    """A problem that the user can act on.

    Args:
        problem: what is wrong, with the offending value; one sentence without a full stop.
        remedy: what to do about it; one sentence without a full stop.
        code: short stable name of the kind of problem ("truncated", "not-3d", ...), for ledgers and tests.
    """

    def __init__(self, problem: str, remedy: str, *, code: str = "error") -> None:
        super().__init__(f"{problem.rstrip('.')}. {remedy.rstrip('.')}.")
        self.problem = problem
        self.remedy = remedy
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.remedy, self.code)


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


class StageError(PlatformError):
    """A stage of the chain cannot run or found nothing to work on."""
