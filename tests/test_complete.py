"""Whoever adds a model or a provider is told here what is still missing."""

import importlib
import re

import pytest
import yaml

from services.workers.provider import Provider
from shared import catalog, errors
from shared.errors import ApiError
from tests.sources import ROOT

CATALOG = catalog.load()
README = (ROOT / "README.md").read_text("utf-8")


def all_errors(root: type[ApiError] = ApiError) -> list[type[ApiError]]:
    return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]


PUBLIC = [error for error in all_errors() if error.__module__ == errors.__name__]


@pytest.mark.parametrize("provider", CATALOG.providers)
def test_every_provider_has_its_folder_and_it_offers_what_the_catalog_promises(provider: str) -> None:
    offered: Provider = importlib.import_module(f"services.workers.{provider}").PROVIDER
    assert offered.name == provider
    models = [model for model in CATALOG if model.provider == provider]
    if any("embeddings" in model.capabilities for model in models):
        assert offered.embed is not None
    families = importlib.import_module(f"services.workers.{provider}.models").FAMILIES
    unknown = {model.family for model in models if "embeddings" not in model.capabilities} - set(families)
    assert not unknown, f"services/workers/{provider}/models.py has no rules for {sorted(unknown)}"


@pytest.mark.parametrize("provider", CATALOG.providers)
def test_every_provider_has_goldens_a_manifest_and_a_compose_block(provider: str) -> None:
    assert list((ROOT / "tests/golden" / provider).glob("*.json"))
    assert (ROOT / "deploy/kubernetes/providers" / provider / "kustomization.yaml").exists()
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert f"worker-{provider}" in compose["services"]


@pytest.mark.parametrize("provider", CATALOG.providers)
def test_every_provider_has_a_process_of_its_own(provider: str) -> None:
    assert (ROOT / "services/workers" / provider / "__main__.py").exists()


@pytest.mark.parametrize("error", PUBLIC)
def test_every_error_stands_in_the_tree_of_errors(error: type[ApiError]) -> None:
    assert re.search(rf"\b{error.__name__}\b", errors.__doc__ or "")


@pytest.mark.parametrize("code", sorted({error.code for error in PUBLIC if error.code}))
def test_every_error_code_stands_in_the_readme(code: str) -> None:
    assert f"`{code}`" in README


@pytest.mark.parametrize("model", [model.id for model in CATALOG])
def test_every_model_stands_in_the_readme(model: str) -> None:
    assert f"`{model}`" in README
