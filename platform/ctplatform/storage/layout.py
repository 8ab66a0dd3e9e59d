"""Where everything lies in a workspace: every folder and file name of it, once.

    atlas/              atlas.json, lung_mask.nii.gz, stage.json
    scans/              the ledger: one Parquet row a scan; qc/ has the overlays, settings/ what scans were made with
    patches/            one Parquet shard a scan
    splits.json         which subjects train and which are held out
    signatures.parquet  what near-duplicate scans are found by
    labelled/           label maps at the atlas's spacing, and the features of their windows
    stages/             the record of each stage's last run
    postmortem/         what a failed run left behind
    phantom/            the synthetic cohort of the demo
    pretrain/<run>/     metrics, checkpoints; weights, card, atlas and README: a folder that works without the workspace
    leases/             which process works on the workspace, and on each run
    embeddings/<run>/   vectors of patches, scans and patients
    evaluation/<run>/   trials, searches, tables, figures, report.html; models/ has a folder a task and initialisation,
                        networks/ those of trials whose models are not written yet

Paths are tuples of parts, as `Workspace` takes them: constants for single names, functions for what is composed.
"""

from __future__ import annotations

Parts = tuple[str, ...]

ATLAS, SCANS, PATCHES = "atlas", "scans", "patches"
ATLAS_FILE, TEMPLATE_FILE, ATLAS_STAGE_FILE = "atlas.json", "lung_mask.nii.gz", "stage.json"
OVERLAYS, SETTINGS = "qc", "settings"
SPLITS_FILE, SIGNATURES_FILE = "splits.json", "signatures.parquet"
LABELLED, LUNG_VOLUMES, WINDOW_FEATURES = "labelled", "cubes", "features"
STAGE_RECORDS = "stages"
LEASES, WORKSPACE_LEASE = "leases", "workspace"
POSTMORTEM, POSTMORTEM_SUMMARY, POSTMORTEM_LOGS = "postmortem", "summary.json", "logs.txt"
PHANTOM, PHANTOM_ROWS, PHANTOM_TABLE = "phantom", "rows", "cohort.csv"

PRETRAIN, CHECKPOINTS, INITIAL = "pretrain", "checkpoints", "initial"
METRICS_FILE, PROGRESS_FILE, CONFIG_FILE = "metrics.jsonl", "progress.json", "config.json"
WEIGHTS_FILE, CARD_FILE, PROBE_FILE = "weights.safetensors", "card.json", "probe.json"
README_FILE = "README.md"
WEIGHTS_FOLDER = (WEIGHTS_FILE, ATLAS_FILE, TEMPLATE_FILE, README_FILE, CARD_FILE)
"""Files of a trained encoder, the last one last."""
CHECKPOINT_MANIFEST, CHECKPOINT_STATE = "checkpoint.json", "state.pt"
REPRESENTATION_FILE = "representation.safetensors"
STOP_FILE = "stop.json"
TENSORBOARD, MLFLOW_FILE, MLFLOW_SWEEP_FILE = "tensorboard", "mlflow.json", "mlflow-sweep.json"

EMBEDDINGS, PATCH_VECTORS, SCAN_VECTORS, PATIENT_VECTORS = "embeddings", "patches", "scans", "patients-"

EVALUATION, TRIALS, SEARCHES, MAPS, FIGURES = "evaluation", "trials", "searches", "maps", "figures"
MODELS, NETWORKS, HEAD_FILE, ENCODER = "models", "networks", "head.safetensors", "encoder"
SUMMARY_FILE, HORIZONS_FILE, NOTES_FILE, REPORT_FILE = (
    "summary.parquet",
    "horizons.parquet",
    "notes.json",
    "report.html",
)

PARQUET, JSON, PNG, CSV, SVG = ".parquet", ".json", ".png", ".csv", ".svg"


_AGAIN = "Delete it and run the same command again, which makes it again"
_RESTORE = "Restore it from a copy"
_REMEDIES: dict[str, str] = {
    ATLAS: f"{_RESTORE}; or delete the folder {ATLAS} and run from the stage atlas on, which prepares every scan again",
    SPLITS_FILE: f"{_RESTORE}; without it another split is drawn, and weights of this one cannot be evaluated",
    SCANS: "Delete it; the next `drasclr prepare` does its scans again",
    PATCHES: "Run `drasclr verify --discard`, then `drasclr prepare`, which makes it again",
    STAGE_RECORDS: "Delete it; the stage is assessed anew, and its finished work is kept",
    PRETRAIN: f"{_RESTORE}; or delete the run's folder, which is then trained again",
}


def remedy(parts: Parts) -> str:
    """What helps when a file of the workspace is damaged: one sentence without a full stop."""
    if parts[-1] in (METRICS_FILE, PROGRESS_FILE, MLFLOW_FILE, PROBE_FILE):
        return _AGAIN
    return _REMEDIES.get(parts[0], _AGAIN)


def ledger_row(scan_id: str, version: int) -> Parts:
    """A scan's row in the ledger; every preparation of it writes a new version."""
    return SCANS, f"{scan_id}.{version}{PARQUET}"


def merged_ledger_rows(name: str) -> Parts:
    """Rows of many scans in one file, after compaction."""
    return SCANS, f"rows-{name}{PARQUET}"


def is_merged(name: str) -> bool:
    """Whether a file of the ledger has the name of `merged_ledger_rows`."""
    return name.startswith("rows-") and name.count(".") == 1  # a scan's own row has its version, too


def overlay(scan_id: str) -> Parts:
    """Picture of a scan with its mask, its atlas contour and its locations, for quality control."""
    return SCANS, OVERLAYS, f"{scan_id}{PNG}"


def preparation_settings(config_hash: str) -> Parts:
    """The settings that a ledger row names by their hash."""
    return SCANS, SETTINGS, f"{config_hash}{JSON}"


def shard(scan_id: str) -> Parts:
    """All patches of a scan."""
    return PATCHES, f"{scan_id}{PARQUET}"


def stage_record(stage: str, run: str = "") -> Parts:
    """Record of a stage's last run; stages of a training run have one for each run."""
    return (STAGE_RECORDS, run, f"{stage}{JSON}") if run else (STAGE_RECORDS, f"{stage}{JSON}")


def lung_volume(scan_id: str, key: str) -> Parts:
    """A labelled scan's lungs, resampled to the atlas's spacing; `key` names what they were made from."""
    return LABELLED, LUNG_VOLUMES, f"{scan_id}.{key}{PARQUET}"


def lease(run: str = "") -> Parts:
    """Who works on a training run; without one, on what all runs share."""
    return LEASES, f"{run or WORKSPACE_LEASE}{JSON}"


def label_map(task: str, scan_id: str, key: str) -> Parts:
    """A task's label map on the grid of the lung volume."""
    return LABELLED, task, f"{scan_id}.{key}{PARQUET}"


def window_classes(task: str, stride: int, scan_id: str, key: str) -> Parts:
    """Classes of the voxels that each sliding window stands for."""
    return LABELLED, task, f"cells-{stride}", f"{scan_id}.{key}{PARQUET}"


def window_features(features_key: str, scan_id: str, key: str) -> Parts:
    """Vectors of the sliding windows from one encoder."""
    return LABELLED, WINDOW_FEATURES, features_key, f"{scan_id}.{key}{PARQUET}"


def phantom_row(version: str, index: int) -> Parts:
    """Row of one synthetic subject; `version` names the cohort's configuration."""
    return PHANTOM, PHANTOM_ROWS, f"{version}-{index:05d}{JSON}"


def phantom_table() -> Parts:
    """Scan table of the synthetic cohort."""
    return PHANTOM, PHANTOM_TABLE


def weights(run: str) -> Parts:
    """The trained encoder."""
    return PRETRAIN, run, WEIGHTS_FILE


def card(run: str) -> Parts:
    """What the encoder is and where it comes from; written last, to mark training as finished."""
    return PRETRAIN, run, CARD_FILE


def model_readme(run: str) -> Parts:
    """The encoder's model card for people; the report adds its scores."""
    return PRETRAIN, run, README_FILE


def representation(run: str) -> Parts:
    """Statistics of each location that patients' vectors are standardised with."""
    return PRETRAIN, run, REPRESENTATION_FILE


def initial_weights(run: str, name: str) -> Parts:
    """A file of the weights that a run started from, `WEIGHTS_FILE` or `CARD_FILE`; absent if from random ones."""
    return PRETRAIN, run, INITIAL, name


def training_config(run: str) -> Parts:
    """The resolved recipe of a run."""
    return PRETRAIN, run, CONFIG_FILE


def training_metrics(run: str) -> Parts:
    """Training log, one JSON line a logged step."""
    return PRETRAIN, run, METRICS_FILE


def training_progress(run: str) -> Parts:
    """Last line of the training log."""
    return PRETRAIN, run, PROGRESS_FILE


def stop_request(run: str) -> Parts:
    """While it exists, the workers of a run stop after their step."""
    return PRETRAIN, run, STOP_FILE


def probe(run: str) -> Parts:
    """Scores of the online probe."""
    return PRETRAIN, run, PROBE_FILE


def checkpoint_folder(step: int) -> str:
    """Name of a checkpoint's folder; sorted by name is sorted by step."""
    return f"step-{step:09d}"


def patient_vectors(run: str, encoder: str) -> Parts:
    """One vector a scan from one encoder, all scans."""
    return EMBEDDINGS, run, f"{PATIENT_VECTORS}{encoder}{PARQUET}"


def scan_vectors(run: str, encoder: str, group: str) -> Parts:
    """One vector a scan of a group of scans; written last, to mark the group as finished."""
    return EMBEDDINGS, run, SCAN_VECTORS, f"{encoder}-{group}{PARQUET}"


def patch_vectors(run: str, encoder: str, group: str) -> Parts:
    """One vector a patch of a group of scans."""
    return EMBEDDINGS, run, PATCH_VECTORS, f"{encoder}-{group}{PARQUET}"


def trial(run: str, cell: str) -> Parts:
    """Scores and predictions of one trial of the sweep."""
    return EVALUATION, run, TRIALS, f"{cell}{PARQUET}"


def search(run: str, cell: str) -> Parts:
    """Hyper-parameters that the search of one cell tried, and those that it chose."""
    return EVALUATION, run, SEARCHES, f"{cell}{JSON}"


def evaluation_table(run: str, name: str) -> Parts:
    """A table over all trials: results, predictions, summary, comparisons, savings, details or horizons."""
    return EVALUATION, run, f"{name}{PARQUET}"


def prediction_map(run: str, task: str, initialisation: str) -> Parts:
    """Slices of held-out patients with the predicted labels."""
    return EVALUATION, run, MAPS, f"{task}-{initialisation}{PARQUET}"


def models(run: str) -> Parts:
    """Folder of the models that were kept after a sweep."""
    return EVALUATION, run, MODELS


def model_file(run: str, task: str, initialisation: str, *names: str) -> Parts:
    """A file of a kept model: `CARD_FILE`, `HEAD_FILE`, or `ENCODER` and a file of a weights folder."""
    return EVALUATION, run, MODELS, f"{task}-{initialisation}", *names


def networks(run: str) -> Parts:
    """Networks of trials whose models are not written yet."""
    return EVALUATION, run, NETWORKS


def network_file(run: str, cell: str, *names: str) -> Parts:
    """A file of the network that a trial has trained, as of a model folder."""
    return *networks(run), cell, *names


def notes(run: str) -> Parts:
    """Messages of the sweep: what was left out, and why."""
    return EVALUATION, run, NOTES_FILE


def summary(run: str) -> Parts:
    """Mean and interval of each score over seeds: the sweep's last table."""
    return EVALUATION, run, SUMMARY_FILE


def report(run: str) -> Parts:
    """The HTML report."""
    return EVALUATION, run, REPORT_FILE


def figures(run: str) -> Parts:
    """Folder of the report's charts and of the tables behind them."""
    return EVALUATION, run, FIGURES


def figure(run: str, name: str) -> Parts:
    """A chart of the report."""
    return EVALUATION, run, FIGURES, f"{name}{SVG}"


def figure_table(run: str, name: str) -> Parts:
    """The numbers behind a chart of the report."""
    return EVALUATION, run, FIGURES, f"{name}{CSV}"
