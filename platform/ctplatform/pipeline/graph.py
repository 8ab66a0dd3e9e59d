"""The stages of the chain, in order, and how they depend on each other.

Imported by the command line before a command is known: neither this module nor the stages import anything heavy.
"""

from __future__ import annotations

from ctplatform.pipeline.stages import atlas, embed, prepare, pretrain, report, split, sweep

GRAPH = {
    stage.name: stage
    for stage in (
        atlas.STAGE,
        prepare.STAGE,
        split.STAGE,
        pretrain.STAGE,
        embed.STAGE,
        sweep.STAGE,
        report.STAGE,
    )
}
STAGES = tuple(GRAPH)

#: Inputs of the first stages: the scan table and the label columns beside.
COHORT_INPUTS = ("scans", "labels")

#: Inputs that a stage may do without: a cohort that is not given again, results where nobody has labels.
OPTIONAL_INPUTS = (*COHORT_INPUTS, "results")


def maker(artefact: str) -> str:
    """Name of the stage that writes an output."""
    return next(stage.name for stage in GRAPH.values() if artefact in stage.outputs)


def downstream(name: str) -> tuple[str, ...]:
    """The stages that read, directly or not, what this one writes; in order."""
    changed = set(GRAPH[name].outputs)
    found = []
    for stage in GRAPH.values():
        if changed & set(stage.inputs):
            changed |= set(stage.outputs)
            found.append(stage.name)
    return tuple(found)


def between(first: str, last: str) -> tuple[str, ...]:
    """The stages from `first` to `last`, both included."""
    return STAGES[STAGES.index(first) : STAGES.index(last) + 1]
