"""Checks what deploys OpenToken: every overlay by Kubernetes' schemas and our own rules, docker-compose.yml, alerts.

`python -m tests.manifests` prints a line for each and exits with 1 where anything was found.
"""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate as schemas
import yaml

from shared import catalog
from shared.drain import FLUSH_S, GRACE_S, LINGER_S
from tests import kustomize
from tests.kustomize import POD, Document, at
from tests.sources import modules

Check = Callable[[list[Document]], Iterator[str]]

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
ALERTS = ROOT / "deploy" / "observability" / "alerts.yaml"
OVERLAYS = ("overlays/dev", "overlays/prod")
RENDERERS = (("kubectl", "kustomize"), ("kustomize", "build"))
RENDER_TIMEOUT_S = 60  # it reads a few files; whatever takes longer waits for a network
SIGNING_KEY, CHECKPOINTS = "OPENTOKEN_SIGNING_KEY_FILE", "OPENTOKEN_CHECKPOINT_DIR"
HARDENING = "services.billing.migrations.hardening"
METRICS = {"Counter": ("",), "Gauge": ("",), "Histogram": ("_bucket", "_sum", "_count")}
WORKLOADS = ("Deployment", "StatefulSet", "Job")


def main() -> None:
    """Check everything; the exit code tells."""
    renderer = next((one for one in RENDERERS if shutil.which(one[0])), None)
    by = renderer[0] if renderer else kustomize.__name__
    found = 0
    for overlay in OVERLAYS:
        documents = rendered(KUBERNETES / overlay, renderer)
        found += _report(f"{overlay}: {len(documents)} documents rendered by {by}", findings(documents))
    services = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
    found += _report(f"{COMPOSE.name}: {len(services)} services", compose(services))
    groups = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    found += _report(f"{ALERTS.name}: {sum(len(group['rules']) for group in groups)} alerts", alerts(groups))
    sys.exit(1 if found else 0)


def rendered(folder: Path, renderer: tuple[str, str] | None) -> list[Document]:
    """The documents of a kustomization, by an installed tool or by ours."""
    if renderer is None:
        try:
            return kustomize.render(folder)
        except kustomize.Unsupported as error:
            sys.exit(str(error))
    done = subprocess.run([*renderer, str(folder)], check=False, capture_output=True, timeout=RENDER_TIMEOUT_S)
    if done.returncode:
        sys.exit(f"{' '.join(renderer)} {folder}: {done.stderr.decode().strip()}")
    return list(yaml.safe_load_all(done.stdout))


def schema(documents: list[Document]) -> Iterator[str]:
    """Every document fits the schema of its kind, with no member that Kubernetes does not know."""
    for document in documents:
        try:
            schemas.validate(document, schemas.latest_version(), strict=True)
        except schemas.ValidationError as error:
            yield f"{_name(document)}: {'.'.join(map(str, error.path))}: {error.message}"
        except schemas.SchemaNotFoundError as error:
            yield f"{_name(document)}: {error.message}"


def images(documents: list[Document]) -> Iterator[str]:
    """Every image has a tag, and it is not `latest`."""
    for name, _, container in _containers(documents):
        if not _tagged(container["image"]):
            yield f"{name}: image {container['image']} needs a tag other than latest"


def resources(documents: list[Document]) -> Iterator[str]:
    """Every container says what CPU and memory it needs, and where its memory ends."""
    for name, _, container in _containers(documents):
        for path in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if not at(container, ("resources", *path)):
                yield f"{name}: resources.{'.'.join(path)} is missing"


def restricted(documents: list[Document]) -> Iterator[str]:
    """Every pod fits the restricted Pod Security Standard, on a read-only root, and holds no API token."""
    tokenless = [
        one["metadata"]["name"]
        for one in documents
        if one["kind"] == "ServiceAccount" and one.get("automountServiceAccountToken") is False
    ]
    for name, pod, container in _containers(documents):
        own = container.get("securityContext", {})
        held = {
            "runAsNonRoot": at(pod, ("securityContext", "runAsNonRoot")) is True,
            "seccompProfile: RuntimeDefault": at(pod, ("securityContext", "seccompProfile", "type"))
            == "RuntimeDefault",
            "allowPrivilegeEscalation: false": own.get("allowPrivilegeEscalation") is False,
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "capabilities.drop: [ALL]": at(own, ("capabilities", "drop")) == ["ALL"],
            "automountServiceAccountToken: false": pod.get("automountServiceAccountToken") is False
            or pod.get("serviceAccountName") in tokenless,
        }
        yield from (f"{name}: {rule} is missing" for rule, fine in held.items() if not fine)


def probes(documents: list[Document]) -> Iterator[str]:
    """Whatever serves is probed; our own processes have the time to end in order."""
    needed_s = LINGER_S + GRACE_S + FLUSH_S
    for name, pod, container in _containers(documents):
        if name.startswith("Job/"):
            continue
        yield from (f"{name}: {one} is missing" for one in ("readinessProbe", "livenessProbe") if one not in container)
        ours = container["image"].rpartition("/")[2].startswith("opentoken:")
        if ours and pod.get("terminationGracePeriodSeconds", 30) < needed_s:
            yield f"{name}: terminationGracePeriodSeconds must be {needed_s:.0f} at least, which a drain may take"


def secrets(documents: list[Document]) -> Iterator[str]:
    """An overlay holds all the Secrets that it names, or none: those of production are not in the repository."""
    held = {one["metadata"]["name"] for one in documents if one["kind"] == "Secret"}
    named = set[str]()
    for _, pod, container in _containers(documents):
        named |= {source["secretRef"]["name"] for source in container.get("envFrom", []) if "secretRef" in source}
        named |= {volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume}
    if held:
        yield from (f"Secret/{name} is named, but not there" for name in sorted(named - held))


def signing(documents: list[Document]) -> Iterator[str]:
    """Billing signs: its key is a Secret that it can only read, and what it signs goes to a volume."""
    for name, pod, container in _containers(documents):
        if container.get("args") != ["services.billing"]:
            continue
        env = {one["name"]: Path(one["value"]) for one in container.get("env", []) if "value" in one}
        volumes = {one["name"]: one for one in pod.get("volumes", [])}
        mounts = {Path(one["mountPath"]): one for one in container.get("volumeMounts", [])}
        key, exported = env.get(SIGNING_KEY), env.get(CHECKPOINTS)
        mount = mounts.get(key.parent, {}) if key else {}
        if "secret" not in volumes.get(mount.get("name", ""), {}) or mount.get("readOnly") is not True:
            yield f"{name}: {SIGNING_KEY} must name a file of a Secret that is mounted readOnly"
        if exported not in mounts:
            yield f"{name}: {CHECKPOINTS} must name a mounted volume"


def providers(documents: list[Document]) -> Iterator[str]:
    """Every provider of the catalog has its workers, behind a headless Service of the name that the edge resolves.

    Their spools outlive their pods.
    """
    there = {_name(document): document for document in documents}
    for provider in catalog.load().providers:
        worker = there.get(f"StatefulSet/worker-{provider}")
        if at(worker, (*POD, "containers", "0", "args")) != [f"services.workers.{provider}"]:
            yield f"no StatefulSet runs services.workers.{provider}: add deploy/kubernetes/providers/{provider}"
        if at(worker, ("spec", "volumeClaimTemplates", "0", "metadata", "name")) != "spool":
            yield f"StatefulSet/worker-{provider} must claim a volume for its spool"
        if at(there.get(f"Service/worker-{provider}"), ("spec", "clusterIP")) != "None":
            yield f"Service/worker-{provider} must be there, and headless"


CHECKS: tuple[Check, ...] = (
    schema,
    images,
    resources,
    restricted,
    probes,
    secrets,
    signing,
    providers,
)


def findings(documents: list[Document]) -> Iterator[str]:
    """Whatever any check finds in an overlay."""
    return (finding for check in CHECKS for finding in check(documents))


def compose(services: dict[str, Any]) -> Iterator[str]:
    """Every service of docker-compose.yml is tagged, watched and no root; billing signs, on a hardened database; every
    provider has its worker.
    """
    for name, service in services.items():
        if not _tagged(service["image"]):
            yield f"{name}: image {service['image']} needs a tag other than latest"
        if service.get("restart") != "no" and "test" not in service.get("healthcheck", {}):
            yield f"{name}: has no healthcheck, and is no one-shot (restart: 'no')"
        user = service.get("user") or (_image_user() if "build" in service else "")
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
            yield f"{name}: must run as a user other than root, by number (uid:gid)"
    yield from _hurried(services)
    billing = services.get("billing", {})
    for variable in (SIGNING_KEY, CHECKPOINTS):
        if variable not in billing.get("environment", {}):
            yield f"billing: {variable} is missing, so nothing is signed or kept outside"
    if services.get("harden", {}).get("command") != [HARDENING] or "harden" not in billing.get("depends_on", {}):
        yield f"billing: must wait for a service harden that runs {HARDENING}"
    for provider in catalog.load().providers:
        if services.get(f"worker-{provider}", {}).get("command") != [f"services.workers.{provider}"]:
            yield f"no service worker-{provider} runs services.workers.{provider}"


def alerts(groups: list[dict[str, Any]]) -> Iterator[str]:
    """Every alert says how urgent it is, what it means and what to do, and is about metrics and labels that exist."""
    known = metrics()
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule["alert"]
        for path in (("labels", "severity"), ("annotations", "summary"), ("annotations", "action")):
            if not at(rule, path):
                yield f"{name}: {'.'.join(path)} is missing"
        for metric, matchers in re.findall(r"\b(opentoken_\w+)(?:\{([^}]*)\})?", rule["expr"]):
            if metric not in known:
                yield f"{name}: no code defines {metric}"
            for label in re.findall(r"(\w+)[=!]", matchers):
                if label not in known.get(metric, [label]):
                    yield f"{name}: {metric} has no label {label}"


def metrics() -> dict[str, list[str]]:
    """The name of each series that the code defines, and its labels."""
    found: dict[str, list[str]] = {}
    for path in modules("services", "shared").values():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(kind), args=[ast.Constant(str(name)), _, *labels]) if kind in METRICS:
                    for suffix in METRICS[kind]:
                        found[name + suffix] = ast.literal_eval(labels[0]) if labels else []
    return found


def _hurried(services: dict[str, Any]) -> Iterator[str]:
    for name, service in services.items():
        given_s = float(service.get("stop_grace_period", "10s").removesuffix("s"))
        if "build" in service and given_s < LINGER_S + GRACE_S + FLUSH_S:
            yield f"{name}: stop_grace_period is shorter than a drain may take"


def _image_user() -> str:
    """The user that our image runs as: the last one that its Dockerfile names."""
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text("utf-8")
    users: list[str] = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)
    return users[-1] if users else ""


def _containers(documents: list[Document]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """The name of each workload, its pod, and each container in it."""
    for document in documents:
        if document["kind"] in WORKLOADS:
            pod = at(document, POD)
            for container in pod["containers"] + pod.get("initContainers", []):
                yield _name(document), pod, container


def _name(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def _tagged(image: str) -> bool:
    _, _, tag = image.rpartition("/")[2].partition(":")
    return tag not in {"", "latest"}


def _report(what: str, found: Iterator[str]) -> int:
    """Print what was checked and what was found; how many findings."""
    lines = [f"  {finding}\n" for finding in found]
    sys.stdout.write(f"{what}: {f'{len(lines)} findings' if lines else 'ok'}\n")
    sys.stdout.writelines(lines)
    return len(lines)


if __name__ == "__main__":
    main()
