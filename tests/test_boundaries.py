"""The import rules of the house: what may know of what."""

import re

import pytest

from shared import catalog
from tests.sources import imports, modules, reach, words

SERVICES, SHARED = modules("services"), modules("shared")
GRAPH = {name: imports(path) for name, path in (SERVICES | SHARED).items()}
PROVIDERS = catalog.load().providers
VAGUE = {"utils", "common", "helpers", "base", "misc"}
IO = {"aiohttp", "aio_pika", "asyncio", "sqlalchemy"}
COMPOSED = {"services.local", "services.cli"}  # put together from the others: one process of all, one command of all
SIMULATED = ("services.simulator",)  # what stands in for the providers has to name them


def service_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def folder_of(provider: str) -> str:
    return f"services.workers.{provider}"


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", SHARED)
def test_shared_knows_no_service(module: str) -> None:
    assert "services" not in roots(GRAPH[module])


@pytest.mark.parametrize("module", [name for name in SHARED if name != "shared"])
def test_what_is_shared_serves_at_least_two_services(module: str) -> None:
    users = {service_of(name) for name in SERVICES if module in reach(name, GRAPH)} - {"services"}
    assert len(users) >= 2, f"{module} serves {sorted(users)}: move it to the one that needs it"


@pytest.mark.parametrize("module", [*SERVICES, *SHARED])
def test_a_module_is_named_for_what_it_holds(module: str) -> None:
    assert not VAGUE & set(module.split("."))


@pytest.mark.parametrize("module", [name for name in SERVICES if service_of(name) not in {"services", *COMPOSED}])
def test_a_service_knows_no_other_service(module: str) -> None:
    others = {service_of(name) for name in GRAPH[module] if name.startswith("services.")} - {service_of(module)}
    assert not others


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_providers_folder_does_no_io_and_knows_no_other_provider(provider: str) -> None:
    others = {folder_of(other) for other in PROVIDERS if other != provider}
    inside = [name for name in SERVICES if name == folder_of(provider) or name.startswith(f"{folder_of(provider)}.")]
    for module in inside:
        assert not IO & roots(GRAPH[module])
        assert not {name for name in GRAPH[module] for other in others if name.startswith(other)}


@pytest.mark.parametrize(
    "module", [name for name in SERVICES if service_of(name) in {"services.edge", "services.workers"}]
)
def test_edge_and_workers_know_no_database(module: str) -> None:
    assert "sqlalchemy" not in roots(reach(module, GRAPH))


@pytest.mark.parametrize("module", [*SERVICES, *SHARED])
def test_nothing_but_a_providers_own_folder_names_it(module: str) -> None:
    if module.startswith(SIMULATED):
        return
    path = (SERVICES | SHARED)[module]
    for provider in PROVIDERS:
        if not module.startswith(folder_of(provider)):
            named = [word for word in words(path) if re.search(rf"\b{provider}\b", word, re.IGNORECASE)]
            assert not named, f"{module} names {provider}: {named}"
