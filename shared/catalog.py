"""The catalog of models: read once at start from `catalog.toml`, frozen, and refused whole if any entry is wrong."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from shared.errors import ModelNotFound
from shared.money import MoneyError, Rates, pico_usd, usd

CREATED = 1704067200  # the OpenAI schema wants a date for each model; one constant serves for all
PACKAGED = Path(__file__).with_name("catalog.toml")

Capability = Literal[
    "streaming", "tools", "reasoning", "prompt_caching", "structured_outputs", "image_input", "embeddings"
]


class CatalogError(ValueError):
    """The catalog file cannot be used; the message names the entry and what to change."""


class Price(BaseModel):
    """USD per 1M tokens, as decimal strings. None: no distinct cache rate, so cache tokens cost the input rate."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input: str
    output: str
    cache_read: str | None = None
    cache_write: str | None = None


class Model(BaseModel):
    """One model that clients can name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[A-Za-z0-9._-]+$")]
    upstream: str
    family: str
    context_length: Annotated[int, Field(gt=0)]
    max_output_tokens: Annotated[int, Field(ge=0)]
    default_output_tokens: Annotated[int, Field(gt=0)] | None = None
    capabilities: frozenset[Capability] = Field(strict=False)
    price: Price

    @model_validator(mode="after")
    def _exact(self) -> "Model":
        try:
            _ = self.rates.halved()
        except MoneyError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def provider(self) -> str:
        """The part of the id before the slash; it alone chooses the workers."""
        return self.id.partition("/")[0]

    def output_tokens(self, limit: int | None) -> int:
        """The most that an answer can have where the request sets this limit, or none: what a worker that asks for a
        number asks for, and what the edge holds. A model without a default of ours may go on to its cap.
        """
        return min(limit or self.default_output_tokens or self.max_output_tokens, self.max_output_tokens)

    @cached_property
    def rates(self) -> Rates:
        """Pico-dollars per token."""
        return Rates.per_million(self.price.input, self.price.output, self.price.cache_read, self.price.cache_write)

    @cached_property
    def pricing_version(self) -> str:
        """A content hash of the price row: it changes when, and only when, a price does."""
        row = {"id": self.id} | self.price.model_dump()
        return hashlib.sha256(orjson.dumps(row, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def listing(self) -> dict[str, Any]:
        """The entry of `GET /v1/models`. Prices are JSON numbers written from the decimal strings, digit by digit."""
        prices = self.price.model_dump()
        return {
            "id": self.id,
            "object": "model",
            "created": CREATED,
            "owned_by": self.provider,
            "pricing": {k: None if v is None else orjson.Fragment(usd(pico_usd(v))) for k, v in prices.items()},
            "pricing_version": self.pricing_version,
            "context_length": self.context_length,
            "max_output_tokens": self.max_output_tokens,
            "capabilities": sorted(self.capabilities),
        }


class Catalog:
    """All models by id."""

    def __init__(self, models: list[Model]) -> None:
        self._models: Mapping[str, Model] = {model.id: model for model in models}
        if len(self._models) != len(models):
            ids = sorted(model.id for model in models)
            twice = sorted({one for one, next_ in pairwise(ids) if one == next_})
            raise CatalogError(f"the catalog names {', '.join(twice)} more than once")

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __getitem__(self, model_id: str) -> Model:
        """The model of that id; raises ModelNotFound, as a client sees it."""
        try:
            return self._models[model_id]
        except KeyError:
            raise ModelNotFound(f'model "{model_id}" not found', param="model") from None

    @property
    def providers(self) -> list[str]:
        """The providers that any model names, sorted."""
        return sorted({model.provider for model in self})


def load(path: Path | None = None) -> Catalog:
    """The catalog of a TOML file, by default the packaged one. Raises CatalogError."""
    path = path or PACKAGED
    try:
        entries = tomllib.loads(path.read_text("utf-8")).get("model", [])
        if not isinstance(entries, list):
            raise CatalogError(f"{path}: begin each model with [[model]], in double brackets")
        models = TypeAdapter(list[Model]).validate_python(entries)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"model {e['loc'][0]}, {'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors()
        )
        raise CatalogError(f"{path}: {problems}") from None
    if not models:
        raise CatalogError(f"{path} lists no model")
    return Catalog(models)
