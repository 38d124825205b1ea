"""The container file and the Kubernetes manifests: nothing runs them here, so all else is checked."""

import json
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import kubernetes_validate
import prefect.logging
import prefect.settings
import pytest
import yaml
from distributed.cli.dask_scheduler import main as scheduler_command
from distributed.cli.dask_worker import main as worker_command
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "deployments" / "container" / "Containerfile"
KUBERNETES = ROOT / "deployments" / "kubernetes"
OPERATIONS = ROOT / "docs" / "operations.md"
POOL = json.loads((KUBERNETES / "work-pool-kubernetes.json").read_text())

FILES = sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
VERSIONS = ("1.34", "1.37")
"""Kubernetes releases whose schemas ship with kubernetes-validate."""

OF_PREFECT_KUBERNETES = {
    "PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES",
    "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME",
    "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY",
}
"""Settings of a package that is not installed here; read in its release 0.8.0."""


def pool_job(**values: Any) -> Any:
    """The job that the work pool makes with these values of its variables, or their defaults."""
    properties = POOL["variables"]["properties"]
    given = {"name": "merge", "command": ["prefect", "flow-run", "execute"], "env": [], **values}
    given |= {"labels": {}, "annotations": {}}
    defaults = {name: facts["default"] for name, facts in properties.items() if "default" in facts}
    return apply_values(POOL["job_configuration"]["job_manifest"], {**defaults, **given})


def logging_overrides() -> set[str]:
    """Variables that replace a value of Prefect's ``logging.yml``; they are no settings of their own."""
    (folder,) = prefect.logging.__path__
    found: set[str] = set()

    def walk(name: str, part: Any) -> None:
        for key, value in part.items() if isinstance(part, dict) else ():
            found.add(f"{name}_{key}".upper().replace(".", "_"))
            walk(f"{name}_{key}", value)

    walk("PREFECT_LOGGING", yaml.safe_load((Path(folder) / "logging.yml").read_text()))
    return found


def documents(kind: str | None = None) -> list[Any]:
    found = [document for file in FILES for document in yaml.safe_load_all(file.read_text())]
    return [d for d in found if kind in (None, d["kind"])]


PODS = {d["metadata"]["name"]: d["spec"]["template"]["spec"] for d in documents("Deployment")}
PODS["work pool"] = pool_job()["spec"]["template"]["spec"]


def containers() -> Iterator[tuple[str, Any]]:
    for name, pod in PODS.items():
        assert not pod.get("initContainers")
        for container in pod["containers"]:
            yield name, container


each_container = pytest.mark.parametrize("container", [pytest.param(c, id=n) for n, c in containers()])
each_pod = pytest.mark.parametrize("pod", [pytest.param(p, id=n) for n, p in PODS.items()])


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", CONTAINERFILE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_has_the_tested_versions_and_no_root() -> None:
    text = CONTAINERFILE.read_text()
    installs = re.findall(r"pip install.*", text)
    assert len(installs) == 3
    assert all("-c constraints.txt" in line for line in installs)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert not re.search(r"ARG .*(SECRET|TOKEN|PASSWORD|KEY)", text)


def test_what_the_image_copies_is_sent_to_the_build_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE.read_text(), re.MULTILINE)
    assert "*" in ignored
    assert sent == {name for names in copied for name in names.split()}
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_document_fits_the_schema_of_kubernetes(file: Path, version: str) -> None:
    for document in yaml.safe_load_all(file.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("gpus", [0, 1])
def test_the_work_pool_makes_jobs_that_fit_the_schema(gpus: int) -> None:
    job = pool_job(gpus=gpus)
    kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
    resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == gpus


def test_every_placeholder_of_the_work_pool_is_a_variable() -> None:
    names = {placeholder.name for placeholder in find_placeholders(POOL["job_configuration"])}
    assert names == set(POOL["variables"]["properties"])


@each_container
def test_every_container_has_requests_and_limits(container: Any) -> None:
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][kind])


@each_container
def test_no_image_is_the_latest_one(container: Any) -> None:
    name, _, tag = container["image"].rpartition(":")
    assert name
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", tag)


@each_pod
def test_every_pod_may_run_in_a_restricted_namespace(pod: Any) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.get("hostNetwork")
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@each_pod
def test_a_service_does_not_become_a_setting_of_prefect_or_dask(pod: Any) -> None:
    assert (
        pod["enableServiceLinks"] is False
    )  # else PREFECT_SERVER_PORT=tcp://... of the service prefect-server


@each_container
def test_every_long_running_container_is_probed(container: Any) -> None:
    if container["name"] == "prefect-job":
        return
    ports = {port["name"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"]["port"] in ports


def test_secrets_are_placeholders_or_references() -> None:
    for secret in documents("Secret"):
        assert set(secret["stringData"].values()) == {"REPLACE_ME"}
    assert "secrets.example.yaml" not in KUSTOMIZATION["resources"]
    secretive = re.compile(r"AUTH_STRING$|SECRET|PASSWORD|TOKEN|ACCESS_KEY|CONNECTION_URL|API_KEY")
    for name, container in containers():
        for entry in container.get("env", []):
            if secretive.search(entry["name"]) and entry["name"] not in OF_PREFECT_KUBERNETES:
                assert "secretKeyRef" in entry["valueFrom"], (name, entry)
    for config in documents("ConfigMap"):
        assert not any(secretive.search(key) for key in config["data"])
    for file in (*KUBERNETES.iterdir(), CONTAINERFILE, OPERATIONS):
        assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN", file.read_text()), file


@each_container
def test_secrets_and_settings_that_a_container_reads_exist(container: Any) -> None:
    secrets = {d["metadata"]["name"]: d["stringData"] for d in documents("Secret")}
    configs = {d["metadata"]["name"] for d in documents("ConfigMap")}
    for entry in container.get("env", []):
        if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["key"] in secrets[reference["name"]]
    for source in container.get("envFrom", []):
        assert source.get("configMapRef", {}).get("name", "esmerge") in configs
        assert source.get("secretRef", {}).get("name", "esmerge-s3") in secrets


def test_services_find_their_pods() -> None:
    pods = [d["spec"]["template"] for d in documents("Deployment")]
    for service in documents("Service"):
        wanted = service["spec"]["selector"].items()
        (pod,) = [p for p in pods if wanted <= p["metadata"]["labels"].items()]
        offered = {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= offered
    for deployment in documents("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_what_the_server_writes_is_on_volumes() -> None:
    (server,) = PODS["prefect-server"]["containers"]
    mounts = tuple(mount["mountPath"] for mount in server["volumeMounts"])
    values = {entry["name"]: entry.get("value", "") for entry in server["env"]}
    for name in ("PREFECT_HOME", "PREFECT_SERVER_UI_STATIC_DIRECTORY"):
        assert values[name].startswith(mounts)


def test_gpu_workers_have_a_gpu_and_offer_it_to_dask() -> None:
    (gpu,), (cpu,) = PODS["dask-workers-gpu"]["containers"], PODS["dask-workers-cpu"]["containers"]
    assert {"--resources=GPU=1", "--nthreads=1"} <= set(gpu["args"])
    assert gpu["resources"]["requests"]["nvidia.com/gpu"] == gpu["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "--nthreads=1" in cpu["args"]
    assert not any(argument.startswith("--resources") for argument in cpu["args"])
    assert "nvidia.com/gpu" not in cpu["resources"]["limits"]


def test_the_options_of_the_dask_commands_exist() -> None:
    for name, command in {"scheduler": scheduler_command, "worker": worker_command}.items():
        known = {option for parameter in command.params for option in parameter.opts}
        for _, container in containers():
            if container.get("args", [])[:2] == ["dask", name]:
                used = {a.partition("=")[0] for a in container["args"] if a.startswith("--")}
                assert used <= known


def test_the_kustomization_names_every_file_and_image() -> None:
    by_hand = {"secrets.example.yaml", "prefect-worker-kubernetes.yaml"}
    assert set(KUSTOMIZATION["resources"]) | by_hand == {file.name for file in FILES}
    images = {image["name"] for image in KUSTOMIZATION["images"]}
    elsewhere = {"registry.example.com/prefect-kubernetes"}
    assert {c["image"].rpartition(":")[0] for _, c in containers()} - elsewhere == images


def test_the_files_say_that_they_are_linted_only() -> None:
    for file in (*FILES, KUBERNETES / "kustomization.yaml", CONTAINERFILE):
        assert "not executed in CI" in " ".join(file.read_text()[:400].replace("\n#", "").split()), file


@pytest.mark.parametrize(
    "file", [*sorted(KUBERNETES.iterdir()), CONTAINERFILE, OPERATIONS], ids=lambda file: file.name
)
def test_every_environment_variable_that_is_named_exists(file: Path) -> None:
    named = set(re.findall(r"\b((?:PREFECT|ESMERGE|DASK)_[A-Z0-9_]+[A-Z0-9])\b", file.read_text()))
    code = "\n".join(
        path.read_text()
        for folder in ("esm_core", "tasks", "flows", "deployments", "esmerge")
        for path in (ROOT / folder).rglob("*.py")
    )
    for name in named - OF_PREFECT_KUBERNETES:
        if name.startswith("PREFECT_"):
            assert hasattr(prefect.settings, name) or name in logging_overrides(), name
        elif name.startswith("ESMERGE_"):
            assert name in code, name
        else:
            path = name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")
            assert dask.config.get(path, default="absent") != "absent", name
