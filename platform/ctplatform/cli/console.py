"""Progress and results of the chain: bars on a terminal, plain lines in a job's log, a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ctplatform.evaluation.initialisations import TITLES
from ctplatform.pipeline.progress import Outcome
from ctplatform.storage import layout

if TYPE_CHECKING:
    import pandas as pd

LINE_EVERY_S = 5.0
MIN_SUBJECTS = 10  # in the test; with fewer, a bootstrap interval says little


class Console:
    """Observer for people: one live bar a stage on a terminal, one line every few seconds elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._last = 0.0

    def started(self, stage: str, why: str = "") -> None:
        """A stage begins."""
        self._last = 0.0
        if not self.live:
            print(f"[{stage}] started{f': {why}' if why else ''}", flush=True)
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<9}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=None, stage=stage, text="")

    def skipped(self, stage: str, why: str) -> None:
        """A stage has nothing to do."""
        if self.live:
            from rich import print as rich_print
            from rich.markup import escape

            rich_print(f"[dim]- {stage:<9} unchanged: {escape(why)}[/]")
        else:
            print(f"[{stage}] unchanged: {why}", flush=True)

    def progress(self, stage: str, done: int, total: int, text: str = "") -> None:
        """So much of it is done."""
        if self.live:
            self._bar.update(self._task, completed=done, total=total, text=text)
        elif time.monotonic() - self._last > LINE_EVERY_S or done == total:
            self._last = time.monotonic()
            print(f"[{stage}] {done}/{total} {text}".rstrip(), flush=True)

    def announced(self, stage: str, lines: Sequence[str]) -> None:
        """What a stage is about to do, or where it can be followed."""
        for line in lines:
            if self.live:
                self._bar.console.print(f"  {stage:<9} {line}", markup=False, highlight=False)
            else:
                print(f"[{stage}] {line}", flush=True)

    def finished(self, stage: str, text: str, seconds: float) -> None:
        """A stage ended well."""
        self.close()
        if self.live:
            from rich import print as rich_print
            from rich.markup import escape

            rich_print(f"[green]✓[/] {stage:<9} {escape(text)} [dim]({seconds:.0f} s)[/]")
        else:
            print(f"[{stage}] done in {seconds:.0f} s: {text}", flush=True)

    def close(self) -> None:
        """Stop a live bar, also when a stage failed."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_reasons(outcome: Outcome) -> None:
    """Why scans are flagged, rejected or failed: a line each, up to twenty."""
    summary = outcome.summaries.get("prepare")
    if summary and summary.reasons:
        print("\nScans that need a look:")
        for scan, reason in list(summary.reasons.items())[:20]:
            print(f"  {scan}  {reason}")
        if len(summary.reasons) > 20:
            print(
                f"  ... and {len(summary.reasons) - 20} more; all of them in {layout.SCANS}/*{layout.PARQUET}"
            )


def show_result(outcome: Outcome) -> None:
    """The result as a short table and one sentence, and where everything is."""
    workspace, run = outcome.workspace, outcome.run
    if workspace.exists(*layout.summary(run)):
        summary = workspace.read_table(*layout.summary(run)).to_pandas()
        _table(summary)
        for line in result_lines(summary):
            print(line)
    print(f"\nReport:   {workspace.display(*layout.report(run))}")
    print(f"Weights:  {workspace.display(*layout.weights(run))}")
    print(f"Tables:   {workspace.display(layout.EVALUATION, run)}/*{layout.PARQUET}")


def result_lines(summary: pd.DataFrame) -> list[str]:
    """For the emphysema task with all labels: DrasCLR against chance, and every initialisation that scores higher."""
    from ctplatform.evaluation.summary import headline_rows

    rows = headline_rows(summary)
    rows = rows[rows["task"] == "emphysema_extent"].set_index("initialisation")
    if "drasclr" not in rows.index:
        return []
    ours = rows.loc["drasclr"]
    verdict = "better than chance" if ours["low"] > ours["chance"] else "not shown to be better than chance"
    if ours["n_test"] < MIN_SUBJECTS:
        verdict = "too few subjects to say whether better than chance"
    lines = [
        f"\nEmphysema extent of held-out subjects (n={int(ours['n_test'])}) from the frozen DrasCLR encoder: "
        f"Spearman {_interval(ours)}, {verdict} ({ours['chance']:.2f})."
    ]
    better = rows[(rows["value"] > ours["value"]) & (rows.index != "drasclr")]
    lines += [
        f"Beats it: {TITLES.get(str(name), name)}, {_interval(row)}." for name, row in better.iterrows()
    ]
    return lines


def _table(summary: pd.DataFrame) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    from ctplatform.evaluation.summary import headline_rows

    rows = headline_rows(summary)
    table = Table(title="Held-out subjects, all training labels; mean over seeds [95% bootstrap interval]")
    for name in ("task", "metric", "initialisation", "value", "chance", "n train", "n test"):
        table.add_column(name, justify="right" if name.startswith(("value", "n ", "chance")) else "left")
    for task, group in rows.groupby("task", sort=False):
        for place, row in enumerate(group.sort_values("value", ascending=False).itertuples()):
            table.add_row(
                str(task) if place == 0 else "",
                str(row.metric) if place == 0 else "",
                TITLES.get(str(row.initialisation), str(row.initialisation)),
                _interval(row._asdict()),
                f"{row.chance:.2f}",
                f"{row.n_train:.0f}",
                f"{row.n_test:.0f}",
            )
        table.add_section()
    print()
    RichConsole(width=None if sys.stdout.isatty() else 120).print(table)


def _interval(row: Any) -> str:
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
