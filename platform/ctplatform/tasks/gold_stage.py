"""GOLD stage of airflow obstruction, 0 (none) to 4. Other codes, such as -1 for PRISm in COPDGene, are left out."""

from ctplatform.tasks.task import Task

TASK = Task(
    name="gold_stage",
    title="GOLD stage, 0 to 4",
    kind="ordinal",
    columns=("gold_stage",),
    metrics=("kappa", "exact", "within_one"),
    valid=(0, 4),
)
