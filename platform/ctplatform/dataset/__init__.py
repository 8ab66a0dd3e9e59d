"""What a prepared cohort is on disk: atlas, ledger, Parquet shards, split of the subjects, near-duplicates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.dataset.atlas import read_atlas, read_template
    from ctplatform.dataset.compaction import compact
    from ctplatform.dataset.duplicates import Pair, near_duplicates
    from ctplatform.dataset.ledger import read_ledger, usable
    from ctplatform.dataset.shards import Block, read_block, read_patches
    from ctplatform.dataset.splits import Split, ensure_split, make_split, read_split

__all__ = [
    "Block",
    "Pair",
    "Split",
    "compact",
    "ensure_split",
    "make_split",
    "near_duplicates",
    "read_atlas",
    "read_block",
    "read_ledger",
    "read_patches",
    "read_split",
    "read_template",
    "usable",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Block": "shards",
        "Pair": "duplicates",
        "Split": "splits",
        "compact": "compaction",
        "ensure_split": "splits",
        "make_split": "splits",
        "near_duplicates": "duplicates",
        "read_atlas": "atlas",
        "read_block": "shards",
        "read_ledger": "ledger",
        "read_patches": "shards",
        "read_split": "splits",
        "read_template": "atlas",
        "usable": "ledger",
    },
)
