"""The catalog: right in every entry, or refused whole, naming the entry and what to change."""

import json
import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import catalog
from shared.catalog import Catalog, CatalogError
from shared.errors import ModelNotFound

ENTRY = """
[[model]]
id = "p/m"
upstream = "m-1"
family = "f"
context_length = 1000
max_output_tokens = 100
capabilities = ["streaming"]
price = { input = "1.00", output = "5", cache_read = "0.10" }
"""


def loaded(folder: Path, text: str) -> Catalog:
    path = folder / "catalog.toml"
    path.write_text(text)
    return catalog.load(path)


def test_the_packaged_prices_are_the_published_ones() -> None:
    models = catalog.load()
    assert len(list(models)) == 10
    assert models.providers == ["anthropic", "google"]
    flash, embedding = models["google/gemini-3-flash"], models["google/text-embedding-004"]
    assert (flash.rates.input, flash.rates.output, flash.rates.cache_read) == (500_000, 3_000_000, 50_000)
    assert (embedding.rates.input, embedding.rates.output) == (25_000, 0)
    assert models["anthropic/claude-opus-4-7"].rates.cache_write_1h == 10_000_000


def test_prices_are_listed_digit_by_digit() -> None:
    listed = orjson.dumps(catalog.load()["google/gemini-3.1-flash-lite"].listing())
    assert b'"pricing":{"input":0.25,"output":1.5,"cache_read":0.025,"cache_write":0.25}' in listed


@given(st.text())
def test_a_model_that_is_not_there_is_not_found_under_its_own_name(name: str) -> None:
    models = catalog.load()
    if name not in {model.id for model in models}:
        with pytest.raises(ModelNotFound) as missing:
            models[name]
        assert missing.value.message == f'model "{name}" not found'


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"1.00"', "1.00"), "price.input"),
        (('"5"', "5"), "price.output"),
        (('"1.00"', '"0.0000001"'), "6 decimals"),
        (('"1.00"', '"-1"'), "negative"),
        (('"1.00"', '"one"'), "decimal"),
        (('input = "1.00", ', ""), "price.input"),
        (('family = "f"', 'family = "f"\ncolour = "red"'), "colour"),
        (("cache_read", "cache_reed"), "cache_reed"),
        (('["streaming"]', '["flying"]'), "capabilities"),
        (("1000", "0"), "context_length"),
        (("1000", '"1000"'), "context_length"),
        (('"p/m"', '"no-slash"'), "id"),
        (('upstream = "m-1"\n', ""), "upstream"),
    ],
    ids=str,
)
def test_an_entry_that_is_wrong_is_named_with_its_member(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    assert loaded(tmp_path, ENTRY)["p/m"].rates.cache_read == 100_000
    with pytest.raises(CatalogError, match=f"catalog.toml: model 1.*{re.escape(told)}"):
        loaded(tmp_path, ENTRY.replace("p/m", "p/first") + ENTRY.replace(*change))


def test_all_wrong_entries_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"model 0.*model 1"):
        loaded(tmp_path, ENTRY.replace('"1.00"', "1.0") + ENTRY.replace('"5"', "5.0"))


def test_a_model_that_stands_there_twice_is_refused_by_its_id(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="p/m more than once"):
        loaded(tmp_path, ENTRY + ENTRY)


@pytest.mark.parametrize("text", ["", "[[modle]]", "model = 3", "model = 'x'", "[model]", "[[model", "\x00"], ids=repr)
def test_a_file_that_is_no_catalog_is_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(CatalogError, match=r"catalog\.toml"):
        loaded(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"missing\.toml"):
        catalog.load(tmp_path / "missing.toml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(CatalogError, match=r"latin\.toml"):
        catalog.load(tmp_path / "latin.toml")


def test_the_pricing_version_changes_with_a_price_and_with_nothing_else(tmp_path: Path) -> None:
    version = loaded(tmp_path, ENTRY)["p/m"].pricing_version
    assert loaded(tmp_path, ENTRY.replace("1000", "2000"))["p/m"].pricing_version == version
    assert loaded(tmp_path, ENTRY.replace('"5"', '"6"'))["p/m"].pricing_version != version
    assert json.loads(orjson.dumps(loaded(tmp_path, ENTRY)["p/m"].listing()))["pricing_version"] == version
