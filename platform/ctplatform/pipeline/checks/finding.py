"""What a check before a run found: an error, which stops the run, or a warning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ctplatform.errors import PlatformError, PreflightError


@dataclass(frozen=True)
class Finding:
    """One problem that is known before anything starts.

    Attributes:
        level: an error stops the run; a warning is printed.
        where: key of the recipe, column, option or stage that it concerns.
        problem: what is wrong, with the value.
        remedy: what to do about it.
    """

    level: Literal["error", "warning"]
    where: str
    problem: str
    remedy: str = ""

    def plain(self) -> dict[str, Any]:
        """The finding for JSON."""
        return asdict(self)

    def line(self) -> str:
        """The finding in one line."""
        return f"{self.level:<8} {self.where}: {self.problem}" + (f". {self.remedy}" if self.remedy else "")


def of_error(where: str, error: PlatformError) -> Finding:
    """An error of a part that is used as it is in the run."""
    return Finding("error", where, error.problem, error.remedy)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that stop a run."""
    return [finding for finding in findings if finding.level == "error"]


def require(findings: Sequence[Finding]) -> None:
    """Stop where one of the findings is an error.

    Raises:
        PreflightError: with all errors, a line each.
    """
    wrong = errors(findings)
    if not wrong:
        return
    if len(wrong) == 1:
        raise PreflightError(
            f"{wrong[0].where}: {wrong[0].problem}", wrong[0].remedy or "Correct it", code="preflight"
        )
    lines = [f"{f.where}: {f.problem}" + (f". {f.remedy}" if f.remedy else "") for f in wrong]
    raise PreflightError(
        f"{len(wrong)} problems were found before anything started:\n  " + "\n  ".join(lines),
        "Correct them all, then run it again",
        code="preflight",
    )
