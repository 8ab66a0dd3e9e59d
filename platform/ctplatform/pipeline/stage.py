"""What a stage of the chain is: its runner, inputs, outputs, settings and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.pipeline.costs import Costs, Size, Work
    from ctplatform.pipeline.recorder import Recorder
    from ctplatform.pipeline.state import WorkspaceState


class StageResult(NamedTuple):
    """What a stage returns.

    Attributes:
        summary: the stage's own summary; of another type for each stage.
        text: one line on what came out, for people.
        complete: False if a second run may succeed where this one left something undone.
        run: the training run that was made or continued, by the stage that trains.
    """

    summary: Any
    text: str
    complete: bool = True
    run: str = ""


class Stage(NamedTuple):
    """One stage; each is defined in a module of its own in `pipeline/stages/`.

    Attributes:
        name: also of its command and job script.
        run: does what of the stage's work is missing, and reports progress to the recorder.
        inputs: what it reads: `scans` and `labels` are the cohort's, the others are outputs of stages before it.
        outputs: what it writes, each with a function that gives its digest: twelve hex digits, empty if it is not
            there.
        settings: sections or keys of the recipe that its result depends on.
        hardware: keys and sections below them that change where and how fast it runs, not what comes out.
        unused: sections among `settings` that have no effect on the result of a given recipe.
        of_run: whether it belongs to one training run of the workspace.
        cost: estimates what it still has to do.
        resumes_by_record: whether `cost` ignores finished work, so that an interrupted run's record has to say how
            much is left.
        help: one line on the stage's own command; empty where it has none.
        discard: removes what marks the stage's work as finished, so that it is made again; None if it never is.
    """

    name: str
    run: Callable[[WorkspaceState, Recorder], StageResult]
    inputs: tuple[str, ...]
    outputs: Mapping[str, Callable[[WorkspaceState], str]]
    settings: tuple[str, ...]
    hardware: tuple[str, ...] = ()
    unused: Callable[[Recipe], tuple[str, ...]] | None = None
    of_run: bool = False
    cost: Callable[[Recipe, Size, Costs], Work] | None = None
    resumes_by_record: bool = False
    help: str = ""
    discard: Callable[[WorkspaceState], None] | None = None

    def settings_in(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe's values that the stage's result depends on, by dotted key."""
        from ctplatform.config.section import flatten

        plain = recipe.model_dump(mode="json")
        found: dict[str, Any] = {}
        for path in self.settings:
            value: Any = plain
            for part in path.split("."):
                value = value[part]
            found.update(flatten(path, value))
        return self.effective(found, recipe)

    def effective(self, settings: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
        """Those of some settings, by dotted key, that have an effect on the result."""
        from ctplatform.config.additions import without_neutral

        unused = self.unused(recipe) if self.unused else ()
        without = tuple(f"{key}." for key in (*self.hardware, *unused))
        used = {key: value for key, value in settings.items() if not f"{key}.".startswith(without)}
        return without_neutral(used)

    def work(self, recipe: Recipe, size: Size, costs: Costs) -> Work:
        """What the stage still has to do."""
        from ctplatform.pipeline.costs import Work

        return self.cost(recipe, size, costs) if self.cost else Work(self.name, 0, "")
