"""`drasclr doctor`: what this machine has of what a run needs, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ctplatform import __version__
from ctplatform.errors import PlatformError

OK, NOTE, PROBLEM = "ok", "note", "problem"
MIN_DISK_GB, MIN_SHARED_GB, MIN_MEMORY_GB = 10.0, 2.0, 4.0
#: Extra of the package -> a module that it installs, and what it is for.
EXTRAS = {
    "tensorboard": ("tensorboard", "curves of a training run in TensorBoard"),
    "mlflow": ("mlflow", "runs and trials in MLflow"),
    "optuna": ("optuna", "search with Optuna"),
    "survival": ("sksurv", "random survival forests"),
    "lungmask": ("lungmask", "lung masks of a U-Net"),
    "totalsegmentator": ("totalsegmentator", "lung masks of TotalSegmentator"),
    "excel": ("openpyxl", "tables of labels in Excel's format"),
    "seg": ("highdicom", "label maps as DICOM SEG"),
    "idc": ("idc_index_data", "public collections of the Imaging Data Commons"),
    "hub": ("huggingface_hub", "weights from and for the Hugging Face Hub"),
    "onnx": ("onnx", "encoders as ONNX files"),
    "monai": ("ignite", "running MONAI bundles"),
    "completion": ("shtab", "completion of the command in a shell"),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check: its state ("ok", "note", "problem"), what was found, and what to do about it."""

    check: str
    state: str
    found: str
    remedy: str = ""


def examine(*, workspace: str | None = None, address: str | None = None) -> list[Finding]:
    """All checks of this machine.

    Args:
        workspace: also whether files can be written, read, listed and deleted there.
        address: also whether this Ray cluster can be reached, and what it has.
    """
    findings = [_software(), *_packages(), _processor(), _memory(), _shared_memory(), _gpu()]
    findings += [_disk("disk for Ray", Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()))]
    findings += [_disk("disk here", Path.cwd())]
    if workspace:
        findings.append(_guarded("workspace", lambda: _workspace(workspace)))
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        findings.append(_guarded("Ray cluster", lambda: _cluster(address)))
    else:
        findings.append(Finding("Ray cluster", OK, "none named: commands start Ray on this machine"))
    return findings + list(_extras())


def lines(findings: list[Finding]) -> Iterator[str]:
    """The findings as lines of text, what to do below each."""
    for finding in findings:
        yield f"{finding.state:<8} {finding.check:<20} {finding.found}"
        if finding.remedy:
            yield f"{'':<29} {finding.remedy}"
    problems = sum(finding.state == PROBLEM for finding in findings)
    yield f"\n{problems} problem(s)" if problems else "\nno problem"


def plain(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain values: what `--json` prints."""
    return {
        "version": __version__,
        "problems": sum(finding.state == PROBLEM for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }


def _guarded(check: str, run: Callable[[], Finding]) -> Finding:
    try:
        return run()
    except PlatformError as error:
        return Finding(check, PROBLEM, error.problem, error.remedy)
    except Exception as error:  # a check reports what fails, whatever it is
        reason = str(error).strip().splitlines()
        return Finding(check, PROBLEM, reason[0] if reason else type(error).__name__)


def _software() -> Finding:
    return Finding(
        "drasclr",
        OK,
        f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )


def _packages() -> Iterator[Finding]:
    """Versions of what the package requires, against its bounds."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in metadata.requires("drasclr") or []]
    except metadata.PackageNotFoundError:
        yield Finding("packages", NOTE, "drasclr runs from a source tree: bounds of packages are not checked")
        return
    found, wrong = [], []
    for requirement in required:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        yield Finding(
            "packages", PROBLEM, "; ".join(wrong), "Install drasclr again into an environment of its own"
        )
    yield Finding("packages", OK, ", ".join(found))


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("processor", OK, f"{cores} CPU(s)")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    text = f"{free:.1f} GiB available of {psutil.virtual_memory().total / 2**30:.1f}"
    if free >= MIN_MEMORY_GB:
        return Finding("memory", OK, text)
    return Finding(
        "memory", PROBLEM, text, "A large CT needs about 2 GiB; end other programs or use fewer workers"
    )


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Finding("shared memory", NOTE, "this system has no /dev/shm: Ray keeps its objects on disk")
    free = shutil.disk_usage(place).free / 2**30
    if free >= MIN_SHARED_GB:
        return Finding("shared memory", OK, f"{free:.1f} GiB free in /dev/shm")
    return Finding(
        "shared memory",
        PROBLEM,
        f"{free:.1f} GiB free in /dev/shm: Ray would keep its objects on disk, which is slow",
        f"In a container give --shm-size={MIN_SHARED_GB:g}g or more",
    )


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", OK, f"{', '.join(names)}; CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        return Finding(
            "GPU",
            PROBLEM,
            f"there is an NVIDIA driver, but PyTorch {torch.__version__} cannot use the GPU",
            "Install a PyTorch build for the driver's CUDA version, and see whether nvidia-smi lists the GPU",
        )
    return Finding("GPU", NOTE, "none; embedding and evaluation run on CPUs, pretraining at scale needs GPUs")


def _disk(check: str, place: Path) -> Finding:
    free = shutil.disk_usage(place).free / 1e9
    if free >= MIN_DISK_GB:
        return Finding(check, OK, f"{free:.0f} GB free in {place}")
    remedy = "Free some, or set RAY_TMPDIR" if check == "disk for Ray" else "Free some, or work elsewhere"
    return Finding(check, PROBLEM, f"{free:.1f} GB free in {place}", remedy)


def _workspace(uri: str) -> Finding:
    from ctplatform.storage.workspace import Workspace

    workspace, name, content = Workspace(uri), f"doctor-{uuid.uuid4().hex}.txt", b"drasclr doctor"
    made = workspace.is_local and not Path(workspace.root).exists()
    workspace.write_bytes(content, name)
    try:
        intact = workspace.read_bytes(name) == content and name in workspace.files()
    finally:
        workspace.delete(name)
        if made:
            Path(workspace.root).rmdir()
    if not intact:
        return Finding("workspace", PROBLEM, f"{workspace.display()} does not return what was written")
    return Finding("workspace", OK, f"{workspace.display()} can be written, read, listed and deleted from")


def _cluster(address: str) -> Finding:
    import ray

    from ctplatform.compute.session import ray_session
    from ctplatform.config.cluster import RayConfig

    with ray_session(RayConfig(address=address)):
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
    text = f"{len(nodes)} node(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
    return Finding("Ray cluster", OK, text)


def _extras() -> Iterator[Finding]:
    for extra, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module):
            yield Finding(f"optional: {extra}", OK, purpose)
        else:
            yield Finding(
                f"optional: {extra}", NOTE, f"not installed: {purpose}", f"pip install 'drasclr[{extra}]'"
            )
    from ctplatform.report.niivue import INSTALL, installed

    purpose = "rendering in the page of a scan"
    if installed():
        yield Finding("optional: NiiVue", OK, purpose)
    else:
        yield Finding("optional: NiiVue", NOTE, f"not installed: {purpose}", INSTALL)
