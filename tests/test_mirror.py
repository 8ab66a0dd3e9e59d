"""Every module with logic has a test module of its own name, in the folder of its own name."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Modules without a test module of their own, and why.
ELSEWHERE = {
    "__main__": "runs the command; tests/test_layout.py starts it",
    "config/hardware": "two lists of keys, tested with the stages' settings",
    "evaluation/dense/volumes": "reads what test_features and test_problem write, through it",
    "evaluation/initialisations": "names",
    "phantom/__main__": "runs a function of phantom/files",
    "pipeline/progress": "data classes and a protocol",
}


def test_tests_mirror_the_source():
    package = ROOT / "platform" / "ctplatform"
    modules = {
        path.relative_to(package).with_suffix("").as_posix()
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
    }
    missing = set()
    for module in modules:
        folder, _, name = module.rpartition("/")
        if not (ROOT / "tests" / "ctplatform" / folder / f"test_{name}.py").exists():
            missing.add(module)
    assert missing == set(ELSEWHERE), (
        "add a test module, or a reason here; remove reasons that no longer hold"
    )


def test_no_package_shadows_the_standard_library():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert "platform/__init__.py" not in tracked.splitlines()
    assert not (ROOT / "platform" / "__init__.py").exists()
