"""The part of kustomize that deploy/kubernetes uses, for machines that have neither kubectl nor kustomize.

Fields that it does not know are refused, never skipped; `test_manifests` compares it with kubectl, where there is one.
The order of the steps is kustomize's: patches, namespace, suffix, labels, images.
"""

import re
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

FIELDS = {"apiVersion", "kind", "resources", "patches", "namespace", "nameSuffix", "labels", "images"}
POD = ("spec", "template", "spec")
# Where `includeSelectors` writes besides metadata; another kind has to be looked up in kustomize's own table first.
SELECTORS: dict[str, list[tuple[str, ...]]] = {
    "Deployment": [("spec", "selector", "matchLabels"), ("spec", "template", "metadata", "labels")],
    "StatefulSet": [
        ("spec", "selector", "matchLabels"),
        ("spec", "template", "metadata", "labels"),
        ("spec", "volumeClaimTemplates", "0", "metadata", "labels"),
    ],
    "Service": [("spec", "selector")],
    "PodDisruptionBudget": [("spec", "selector", "matchLabels")],
    "ServiceAccount": [],
}
# Where a document names another one, and of which kind; kustomize's table is longer.
REFERENCES = {(*POD, "serviceAccountName"): "ServiceAccount", ("spec", "serviceName"): "Service"}


class Unsupported(Exception):
    """A kustomization asks for what this renderer does not do."""


def render(folder: Path) -> list[Document]:
    """The documents that `kubectl kustomize FOLDER` prints, in the order of the resources. Raises Unsupported."""
    wanted = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := wanted.keys() - FIELDS:
        raise Unsupported(f"{folder}/kustomization.yaml uses {', '.join(sorted(unknown))}: teach tests/kustomize.py")
    documents = [document for name in wanted["resources"] for document in _load(folder / name)]
    for patch in wanted.get("patches", []):
        _patch(documents, patch["target"], yaml.safe_load(patch["patch"]))
    if "namespace" in wanted:
        _move(documents, wanted["namespace"])
    _rename(documents, wanted.get("nameSuffix", ""))
    for label in wanted.get("labels", []):
        _label(documents, label["pairs"])
    for image in wanted.get("images", []):
        _tag(documents, image)
    return documents


def at(document: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path of keys and list indices; None where the document has no such place."""
    for step in path:
        if isinstance(document, list):
            document = document[int(step)]
        elif isinstance(document, dict):
            document = document.get(step)
    return document


def _load(path: Path) -> list[Document]:
    if path.is_dir():
        return render(path)
    return [document for document in yaml.safe_load_all(path.read_text("utf-8")) if document]


def _patch(documents: list[Document], target: dict[str, str], operations: list[dict[str, Any]]) -> None:
    if unknown := target.keys() - {"kind", "name"}:
        raise Unsupported(f"a patch's target names {', '.join(sorted(unknown))}")
    kind, name = target["kind"], re.compile(target.get("name", ".*"))
    for document in documents:
        if document["kind"] == kind and name.fullmatch(document["metadata"]["name"]):
            for operation in operations:
                _operate(document, **operation)


def _operate(document: Document, op: str, path: str, value: Any) -> None:
    """One operation of RFC 6902."""
    *parents, last = path.removeprefix("/").split("/")
    place = at(document, tuple(parents))
    if op == "add" and isinstance(place, list) and last == "-":
        place.append(value)
    elif isinstance(place, dict) and (op == "add" or (op == "replace" and last in place)):
        place[last] = value
    else:
        raise Unsupported(f"cannot {op} {path} in {document['kind']} {document['metadata']['name']}")


def _move(documents: list[Document], namespace: str) -> None:
    for document in documents:
        if document["kind"] == "Namespace":  # the only kind in the tree that lives in no namespace
            document["metadata"]["name"] = namespace
        else:
            document["metadata"]["namespace"] = namespace


def _rename(documents: list[Document], suffix: str) -> None:
    """Rename everything; a pod follows its ServiceAccount, a StatefulSet its Service: nothing else is referred to."""
    renamed = {(one["kind"], one["metadata"]["name"]) for one in documents}
    for document in documents:
        document["metadata"]["name"] += suffix
        for path, kind in REFERENCES.items():
            *parents, last = path
            place = at(document, tuple(parents))
            if isinstance(place, dict) and (kind, place.get(last)) in renamed:
                place[last] += suffix


def _label(documents: list[Document], pairs: dict[str, str]) -> None:
    for document in documents:
        document["metadata"]["labels"] = document["metadata"].get("labels", {}) | pairs
        for *parents, last in SELECTORS[document["kind"]]:
            place = at(document, tuple(parents))
            place[last] = (
                place.get(last, {}) | pairs
            )  # a new one: an anchor may have put the same mapping in two places


def _tag(documents: list[Document], image: dict[str, str]) -> None:
    for document in documents:
        for container in (at(document, POD) or {}).get("containers", []):
            if container["image"] == image["name"]:
                container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"
