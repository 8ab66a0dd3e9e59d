"""Files of cluster/ as their own tools see them: hadolint, shellcheck, Kubernetes' schemas, Ray's KubeRay autoscaler.

The schemas of KubeRay's own resources are not on the package index. Ray itself reads a RayCluster when it scales one:
that code is what the manifest must satisfy here. With DRASCLR_KUBERAY_CRDS naming a folder of CRD files (`helm show
crds kuberay/kuberay-operator`), the manifests are also held against them, unknown fields refused.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ctplatform.config.loader import load_recipe
from ctplatform.pipeline.prometheus import GAUGES

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
BIN = Path(sys.executable).parent
KUBERNETES = "1.33"
OURS = ("ray.io/v1", "monitoring.coreos.com/v1")  # kinds that come with an operator


def documents() -> list[tuple[str, dict]]:
    found = []
    for path in sorted((CLUSTER / "kuberay").glob("*.yaml")) + sorted(
        (CLUSTER / "monitoring").glob("*.yaml")
    ):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            found.append((f"{path.name}:{document['kind']}", document))
    return found


def cluster_spec(kind: str) -> dict:
    document = next(d for name, d in documents() if d["kind"] == kind)
    return document["spec"] if kind == "RayCluster" else document["spec"]["rayClusterSpec"]


def groups(spec: dict) -> list[dict]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def strictly(schema: object) -> object:
    """A CRD's schema that refuses fields which it does not name."""
    if isinstance(schema, list):
        return [strictly(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner = {key: strictly(value) for key, value in schema.items()}
    if isinstance(inner.get("properties"), dict) and "type" in inner:
        inner.setdefault("additionalProperties", bool(inner.get("x-kubernetes-preserve-unknown-fields")))
    return inner


@pytest.mark.parametrize(
    ("name", "document"), documents(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_kubernetes_accepts_it(name, document):
    if document["apiVersion"] in OURS:
        pytest.skip("a kind of an operator; its pods are checked below")
    kubernetes_validate.validate(document, KUBERNETES, strict=True)
    broken = copy.deepcopy(document)
    broken["specs"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_pods_of_every_group_are_pods_and_run_without_root(kind):
    for group in groups(cluster_spec(kind)):
        template = group["template"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "x", **template.get("metadata", {})},
            "spec": template["spec"],
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"] == container["resources"]["limits"]


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_rays_autoscaler_reads_the_groups(kind):
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    spec = cluster_spec(kind)
    config = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "drasclr", "namespace": "drasclr"}, "spec": spec}
    )
    validate_config(config)
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0, "nothing heavy beside the controllers"
    prepare, train = types["cpu-prepare"], types["gpu-train"]
    assert (prepare["min_workers"], train["min_workers"]) == (0, 0)
    assert prepare["max_workers"] > 0
    assert train["max_workers"] > 0
    assert prepare["resources"]["prepare"] == prepare["resources"]["CPU"]
    assert train["resources"]["GPU"] == train["resources"]["train"] == 1
    assert prepare["labels"]["ray.io/market-type"] == "spot"
    assert config["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_the_operators_schema_accepts_it(kind):
    folder = os.environ.get("DRASCLR_KUBERAY_CRDS")
    if not folder:
        pytest.skip("DRASCLR_KUBERAY_CRDS names no folder of CRD files")
    crds = [
        crd
        for path in Path(folder).glob("*.yaml")
        for crd in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if crd and crd["spec"]["names"]["kind"] == kind
    ]
    version = next(v for v in crds[0]["spec"]["versions"] if v["name"] == "v1")
    schema = strictly(version["schema"]["openAPIV3Schema"])
    document = next(d for _, d in documents() if d["kind"] == kind)
    plain = {key: value for key, value in document.items() if key != "metadata"}
    jsonschema.validate(plain, schema)
    broken = copy.deepcopy(plain)
    broken["spec"]["backofLimit"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_a_job_brings_the_same_nodes_as_the_cluster_that_stays():
    cluster, job = copy.deepcopy(cluster_spec("RayCluster")), cluster_spec("RayJob")
    assert cluster.pop("gcsFaultToleranceOptions")["redisAddress"] == "redis:6379"
    assert cluster == job


def test_token_authentication_is_on_everywhere():
    for kind in ("RayCluster", "RayJob"):
        assert cluster_spec(kind)["authOptions"] == {"mode": "token"}
    for name in ("aws.yaml", "gcp.yaml", "slurm.sh", "Dockerfile"):
        assert "RAY_AUTH_MODE=token" in (CLUSTER / name).read_text(encoding="utf-8"), name


def test_a_job_comes_again_and_goes_away():
    job = next(d for _, d in documents() if d["kind"] == "RayJob")["spec"]
    assert job["backoffLimit"] >= 1
    assert job["shutdownAfterJobFinishes"] is True
    assert job["ttlSecondsAfterFinished"] > 0


def test_the_jobs_command_is_one(monkeypatch, tmp_path):
    """The entry point parses, and its settings are those of the recipe for clusters."""
    job = next(d for _, d in documents() if d["kind"] == "RayJob")["spec"]
    words = job["entrypoint"].split()
    assert words[:2] == ["python", "jobs/pipeline.py"]
    done = subprocess.run(
        [sys.executable, *words[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    recipe = load_recipe(words[words.index("--recipe") + 1], sets)
    for section in ("prepare", "pretrain", "embed", "sweep"):
        wanted = getattr(recipe.placement, section).resources
        assert wanted == getattr(load_recipe(str(CLUSTER / "recipe.yaml")).placement, section).resources


@pytest.mark.parametrize("path", [CLUSTER / "aws.yaml", CLUSTER / "gcp.yaml"], ids=lambda path: path.name)
def test_every_resource_that_the_recipe_asks_for_is_offered(path):
    placement = load_recipe(str(CLUSTER / "recipe.yaml")).placement
    types = yaml.safe_load(path.read_text(encoding="utf-8"))["available_node_types"].values()
    for section in ("prepare", "pretrain", "embed", "sweep"):
        wanted = getattr(placement, section)
        assert any(
            all(node["resources"].get(name, 0) >= amount for name, amount in wanted.resources.items())
            and getattr(wanted, "labels", {}).items() <= node.get("labels", {}).items()
            for node in types
        ), section


def test_dockerfile():
    done = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", CLUSTER / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    text = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^FROM base AS (\w+)", text, re.M) == ["cpu", "cuda", "watch"]
    assert text.rindex("USER 1000:1000") < text.index("FROM base AS cpu"), "all targets run without root"
    for copied in re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", text, re.M):
        assert all((ROOT / source).exists() for source in copied.split())
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {"*", "!drasclr", "!platform", "!jobs", "!constraints.txt"} <= set(ignored)
    bad = subprocess.run([BIN / "hadolint", "-"], input="FROM x\nRUN cd /\n", capture_output=True, text=True)
    assert bad.returncode == 1


def test_slurm_script():
    done = subprocess.run([BIN / "shellcheck", CLUSTER / "slurm.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dashboard_shows_measures_that_exist():
    board = json.loads((CLUSTER / "monitoring" / "grafana.json").read_text(encoding="utf-8"))
    used = set(re.findall(r"ray_(drasclr_\w+)", json.dumps([p["targets"] for p in board["panels"]])))
    assert used == set(GAUGES)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in board["panels"]:
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
    rules = (CLUSTER / "monitoring" / "prometheus.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ray_(drasclr_\w+)[\[ ]", rules)) <= set(GAUGES)


def test_services_on_one_machine_stay_on_it():
    """Compose itself is no package here: what it would be given is looked at."""
    folder = CLUSTER / "watch"
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    for name, service in compose["services"].items():
        assert re.search(r":(?!latest)[\w.-]+$", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), f"{name} can take the machine with it"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source.startswith("$") or source in compose["volumes"] or (folder / source).exists(), (
                volume
            )
    assert "--web.listen-address=127.0.0.1:" in compose["services"]["prometheus"]["command"]
    assert compose["services"]["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    password = compose["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
    assert password.startswith("${GRAFANA_PASSWORD:?"), "without a password, compose refuses to start it"
    build = compose["services"]["tensorboard"]["build"]
    assert f"AS {build['target']}" in (folder / build["context"] / build["dockerfile"]).read_text(
        encoding="utf-8"
    )
    scrape = yaml.safe_load((folder / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]
    assert scrape["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]


def test_images_are_pinned():
    for name, document in documents():
        for image in re.findall(r"'image': '([^']+)'", str(document)):
            assert re.search(r":(?!latest)[\w.-]+$", image), (name, image)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert cluster_spec("RayCluster")["rayVersion"] == versions[0]
    assert any(requirement.startswith("ray[") for requirement in project["dependencies"])
