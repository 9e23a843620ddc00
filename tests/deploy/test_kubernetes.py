"""Manifests of deploy/kubernetes/ against schemas alone: those of Kubernetes, which know every key, and those of Dask's operator."""

from __future__ import annotations

import base64
import copy
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: tests/deploy/setup.sh")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed: tests/deploy/setup.sh")
OPERATOR = importlib.util.find_spec("dask_kubernetes")  # imported, it would load a client of Kubernetes
if OPERATOR is None or OPERATOR.origin is None:
    pytest.skip("dask-kubernetes is not installed: tests/deploy/setup.sh", allow_module_level=True)

DEPLOY = Path(__file__).parents[2] / "deploy"
CRD = Path(OPERATOR.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds/daskjob.yaml"
VERSION = "1.33"


@pytest.fixture(scope="module")
def schema() -> Any:
    return yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.fixture
def job() -> Any:
    return copy.deepcopy(yaml.safe_load((DEPLOY / "kubernetes/job.yaml").read_text()))  # its anchors are one object otherwise


def pods(job: Any) -> dict[str, Any]:
    """Specifications of pods by their role."""
    cluster = job["spec"]["cluster"]["spec"]
    return {"driver": job["spec"]["job"]["spec"], "worker": cluster["worker"]["spec"], "scheduler": cluster["scheduler"]["spec"]}


def containers(job: Any) -> Iterator[Any]:
    for pod in pods(job).values():
        yield from pod["containers"]


def check(manifest: Any) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_the_operator_s_schema(job: Any, schema: Any) -> None:
    jsonschema.validate(job, schema)
    broken = copy.deepcopy(job)
    broken["spec"]["cluster"]["spec"]["worker"]["replicas"] = "eight"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
    del job["spec"]["cluster"]["spec"]["scheduler"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, schema)


@pytest.mark.parametrize("role", ["driver", "worker", "scheduler"])
def test_pods_are_pods(job: Any, role: str) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bigmm"}, "spec": pods(job)[role]}
    check(pod)
    pod["spec"]["containers"][0]["resource"] = {}  # a key that nobody knows
    with pytest.raises(kubernetes_validate.ValidationError):
        check(pod)


def test_the_service_is_a_service(job: Any) -> None:
    service = job["spec"]["cluster"]["spec"]["scheduler"]["service"]
    check({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bigmm"}, "spec": service})
    assert service["type"] == "ClusterIP"


def test_the_network_policy() -> None:
    policy = yaml.safe_load((DEPLOY / "kubernetes/network-policy.yaml").read_text())
    check(policy)
    assert all("from" in rule for rule in policy["spec"]["ingress"])  # nobody gets in without being named


def test_the_secret_has_what_the_pods_mount(tmp_path: Path) -> None:
    printed = subprocess.run(["sh", str(DEPLOY / "kubernetes/make_secret.sh")], capture_output=True, text=True, check=True).stdout
    secret = yaml.safe_load(printed)
    check(secret)
    configuration = yaml.safe_load(base64.b64decode(secret["data"]["tls.yaml"]))["distributed"]["comm"]
    assert configuration["require-encryption"] is True
    for role in ("scheduler", "worker", "client"):
        for path in configuration["tls"][role].values():
            assert re.fullmatch(r"/tls/[a-z-]+\.pem", path)
            assert path.removeprefix("/tls/") in secret["data"]


def test_no_container_has_more_rights_than_it_needs(job: Any) -> None:
    for pod in pods(job).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
    for container in containers(job):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"]
        assert "tcp://" not in str(container)
        assert {"name": "DASK_CONFIG", "value": "/tls/tls.yaml"} in container["env"]


def test_the_image_is_pinned_and_not_root_s() -> None:
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"debian:\d+\.\d+-slim", base) for base in bases)
    assert re.search(r"^USER (?!0\b|root)", dockerfile, re.MULTILINE)
    lines = (DEPLOY / "docker/requirements.txt").read_text().splitlines()[1:]
    pins = dict(line.split("==") for line in lines)
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["s3"]:
        wanted = Requirement(text)
        assert pins[wanted.name] in wanted.specifier
