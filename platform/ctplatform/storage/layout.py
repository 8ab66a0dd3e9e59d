"""Where everything lies in a workspace: every folder and file name of it, once.

    atlas/              atlas.json, lung_mask.nii.gz, stage.json
    scans/              the ledger: one Parquet row a scan; qc/ has the overlays
    patches/            one Parquet shard a scan
    splits.json         which subjects train and which are held out
    signatures.parquet  what near-duplicate scans are found by
    labelled/           label maps at the atlas's spacing, and the features of their windows
    stages/             the record of each stage's last run
    postmortem/         what a failed run left behind
    pretrain/<run>/     metrics, checkpoints, weights and card
    embeddings/<run>/   vectors of patches, scans and patients
    evaluation/<run>/   trials, searches, tables, figures, report.html

Paths are tuples of parts, as `Workspace` takes them.
"""

from __future__ import annotations

ATLAS, SCANS, PATCHES = "atlas", "scans", "patches"
ATLAS_FILE, TEMPLATE_FILE, ATLAS_STAGE_FILE = "atlas.json", "lung_mask.nii.gz", "stage.json"
OVERLAYS, SETTINGS = "qc", "settings"
SPLITS_FILE, SIGNATURES_FILE = "splits.json", "signatures.parquet"
LABELLED, LUNG_VOLUMES = "labelled", "cubes"
STAGE_RECORDS = "stages"
POSTMORTEM, POSTMORTEM_SUMMARY, POSTMORTEM_LOGS = "postmortem", "summary.json", "logs.txt"
PHANTOM, PHANTOM_ROWS, PHANTOM_TABLE = "phantom", "rows", "cohort.csv"

PRETRAIN, CHECKPOINTS = "pretrain", "checkpoints"
METRICS_FILE, PROGRESS_FILE, CONFIG_FILE = "metrics.jsonl", "progress.json", "config.json"
WEIGHTS_FILE, CARD_FILE, PROBE_FILE = "weights.safetensors", "card.json", "probe.json"
CHECKPOINT_MANIFEST, CHECKPOINT_STATE = "checkpoint.json", "state.pt"
TENSORBOARD, MLFLOW_FILE, MLFLOW_SWEEP_FILE = "tensorboard", "mlflow.json", "mlflow-sweep.json"

EMBEDDINGS = "embeddings"

EVALUATION, TRIALS, SEARCHES, MAPS, FIGURES = "evaluation", "trials", "searches", "maps", "figures"
SUMMARY_FILE, HORIZONS_FILE, NOTES_FILE, REPORT_FILE = (
    "summary.parquet",
    "horizons.parquet",
    "notes.json",
    "report.html",
)
