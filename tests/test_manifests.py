"""What deploys OpenToken keeps the house rules, and each rule finds what breaks it."""

import shutil
from typing import Any

import pytest
import yaml

from tests import kustomize, manifests
from tests.kustomize import Document, at
from tests.manifests import Check

DEV = manifests.KUBERNETES / "overlays/dev"
EDGE = "Deployment/edge"
POD = "spec/template/spec"
CONTAINER = f"{POD}/containers/0"


def named(documents: list[Document]) -> dict[str, Document]:
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in documents}


def services() -> dict[str, Any]:
    return dict(yaml.safe_load(manifests.COMPOSE.read_text("utf-8"))["services"])


def test_both_ways_to_run_a_database_for_development_make_the_same_logins() -> None:
    script = (manifests.ROOT / "deploy/docker/logins.sh").read_text("utf-8")
    assert named(kustomize.render(DEV))["ConfigMap/postgres-logins"]["data"] == {"logins.sh": script}


def alert_groups() -> list[dict[str, Any]]:
    return list(yaml.safe_load(manifests.ALERTS.read_text("utf-8"))["groups"])


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_every_overlay_is_valid_and_keeps_the_rules(overlay: str) -> None:
    assert list(manifests.findings(kustomize.render(manifests.KUBERNETES / overlay))) == []


def test_the_compose_file_keeps_the_rules() -> None:
    assert list(manifests.compose(services())) == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="compares with kubectl")
@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_our_renderer_prints_what_kubectl_prints(overlay: str) -> None:
    folder = manifests.KUBERNETES / overlay
    assert named(kustomize.render(folder)) == named(manifests.rendered(folder, ("kubectl", "kustomize")))


@pytest.mark.parametrize(
    ("check", "which", "path", "value", "finding"),
    [
        (manifests.schema, EDGE, "spec/replica", 2, "'replica' was unexpected"),
        (manifests.images, EDGE, f"{CONTAINER}/image", "opentoken", "needs a tag"),
        (manifests.images, EDGE, f"{CONTAINER}/image", "host:5000/opentoken:latest", "needs a tag"),
        (manifests.resources, EDGE, f"{CONTAINER}/resources", {"requests": {"cpu": "1"}}, "limits.memory is missing"),
        (manifests.restricted, EDGE, f"{CONTAINER}/securityContext", {}, "readOnlyRootFilesystem is missing"),
        (manifests.restricted, EDGE, f"{POD}/securityContext/runAsNonRoot", False, "runAsNonRoot is missing"),
        (
            manifests.restricted,
            EDGE,
            f"{POD}/serviceAccountName",
            "default",
            "automountServiceAccountToken: false is missing",
        ),
        (
            manifests.probes,
            EDGE,
            f"{POD}/terminationGracePeriodSeconds",
            30,
            "terminationGracePeriodSeconds must be 86",
        ),
        (manifests.secrets, EDGE, f"{CONTAINER}/envFrom", [{"secretRef": {"name": "typo"}}], "Secret/typo is named"),
        (
            manifests.secrets,
            "Deployment/billing",
            f"{POD}/volumes/0/secret",
            {"secretName": "typo"},
            "Secret/typo is named",
        ),
        (
            manifests.signing,
            "Deployment/billing",
            f"{CONTAINER}/env",
            [],
            "OPENTOKEN_SIGNING_KEY_FILE must name a file",
        ),
        (manifests.signing, "Deployment/billing", f"{POD}/volumes", [], "OPENTOKEN_SIGNING_KEY_FILE must name a file"),
        (manifests.signing, "Deployment/billing", f"{CONTAINER}/volumeMounts/0/readOnly", False, "mounted readOnly"),
        (
            manifests.signing,
            "Deployment/billing",
            f"{CONTAINER}/volumeMounts/1/mountPath",
            "/tmp",
            "OPENTOKEN_CHECKPOINT_DIR must name a mounted volume",
        ),
        (
            manifests.providers,
            "StatefulSet/worker-google",
            f"{CONTAINER}/args",
            ["services.edge"],
            "no StatefulSet runs services.workers.google",
        ),
        (
            manifests.providers,
            "StatefulSet/worker-google",
            "spec/volumeClaimTemplates/0/metadata/name",
            "other",
            "must claim a volume for its spool",
        ),
        (manifests.providers, "Service/worker-google", "spec/clusterIP", None, "must be there, and headless"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_found(check: Check, which: str, path: str, value: Any, finding: str) -> None:
    documents = kustomize.render(DEV)
    *parents, last = path.split("/")
    at(named(documents)[which], tuple(parents))[last] = value
    assert finding in "; ".join(check(documents))


def test_a_workload_without_probes_is_found() -> None:
    documents = kustomize.render(DEV)
    del at(named(documents)[EDGE], tuple(CONTAINER.split("/")))["livenessProbe"]
    assert list(manifests.probes(documents)) == [f"{EDGE}: livenessProbe is missing"]


@pytest.mark.parametrize(
    ("service", "change", "finding"),
    [
        ("edge", {"image": "opentoken"}, "needs a tag"),
        ("edge", {"healthcheck": {"disable": True}}, "has no healthcheck"),
        ("postgres", {"user": "0:0"}, "a user other than root"),
        ("billing", {"environment": {}}, "OPENTOKEN_SIGNING_KEY_FILE is missing"),
        ("billing", {"depends_on": {}}, "must wait for a service harden"),
        ("harden", {"command": ["services.billing.migrations"]}, "must wait for a service harden"),
        ("edge", {"stop_grace_period": "60s"}, "shorter than a drain may take"),
        ("worker-google", {"command": ["services.edge"]}, "no service worker-google runs"),
    ],
)
def test_a_compose_service_that_breaks_a_rule_is_found(service: str, change: dict[str, Any], finding: str) -> None:
    broken = services()
    broken[service] |= change
    assert finding in "; ".join(manifests.compose(broken))


def test_the_alerts_are_about_metrics_that_exist() -> None:
    assert list(manifests.alerts(alert_groups())) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"expr": "opentoken_typo > 0"}, "no code defines opentoken_typo"),
        ({"expr": 'opentoken_queue_messages{name="x"} > 0'}, "opentoken_queue_messages has no label name"),
        ({"labels": {}}, "labels.severity is missing"),
        ({"annotations": {"summary": "x"}}, "annotations.action is missing"),
    ],
)
def test_an_alert_that_breaks_a_rule_is_found(change: dict[str, Any], finding: str) -> None:
    broken = alert_groups()
    broken[0]["rules"][0] |= change
    assert finding in "; ".join(manifests.alerts(broken))


def test_a_kustomize_feature_that_we_do_not_render_is_refused(tmp_path: Any) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: x-\n", "utf-8")
    with pytest.raises(kustomize.Unsupported, match="namePrefix"):
        kustomize.render(tmp_path)
