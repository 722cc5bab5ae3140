"""What the admin API takes: bodies as strict models, with a bound on every amount and number."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from services.billing.bodies import Moment, Name, Uuid
from services.billing.windows import LimitReset
from shared.bodies import Strict
from shared.money import PICO_PER_USD, pico_usd

MAX_CREDIT_USD = 1_000_000  # one credit; far within BIGINT, and a slip of some zeros is refused
MAX_SPEND_LIMIT_USD = 9_000_000  # the most that BIGINT holds, in round millions; whoever needs more needs no limit
MAX_REQUESTS_PER_MINUTE = 1_000_000  # 16,000 a second: more than one key's clients were ever seen to send
MAX_TOKENS_PER_MINUTE = 10_000_000_000  # at that many requests, 10,000 tokens each
_USD = r"[0-9]{1,7}(\.[0-9]{1,12})?"


def _amount_pico(usd: object) -> int:
    if not isinstance(usd, str) or not re.fullmatch(_USD, usd):
        raise ValueError('write it as a decimal string of USD with at most 12 decimals, such as "12.50"')
    return pico_usd(usd)


def _signed_pico(usd: object) -> int:
    negative = isinstance(usd, str) and usd.startswith("-")
    amount_pico = _amount_pico(usd[1:] if negative and isinstance(usd, str) else usd)
    return -amount_pico if negative else amount_pico


def _up_to(usd: int) -> Any:
    """Refuses an amount that is more than this many USD, in USD's own words."""

    def bounded(amount_pico: int) -> int:
        if abs(amount_pico) > usd * PICO_PER_USD:
            raise ValueError(f"it must be {usd:,} USD at most")
        return amount_pico

    return AfterValidator(bounded)


def _moves(amount_pico: int) -> int:
    if not amount_pico:
        raise ValueError("an amount of nothing changes nothing: give more than 0")
    return amount_pico


_UNSIGNED = BeforeValidator(_amount_pico, json_schema_input_type=Annotated[str, Field(pattern=f"^{_USD}$")])
_SIGNED = BeforeValidator(_signed_pico, json_schema_input_type=Annotated[str, Field(pattern=f"^-?{_USD}$")])
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
AmountPico = Annotated[int, _UNSIGNED, _up_to(MAX_CREDIT_USD), AfterValidator(_moves)]
SignedPico = Annotated[int, _SIGNED, _up_to(MAX_CREDIT_USD), AfterValidator(_moves)]
SpendLimitPico = Annotated[int, _UNSIGNED, _up_to(MAX_SPEND_LIMIT_USD)]
RequestsPerMinute = Annotated[int, Field(ge=1, le=MAX_REQUESTS_PER_MINUTE)]
TokensPerMinute = Annotated[int, Field(ge=1, le=MAX_TOKENS_PER_MINUTE)]


class NewWorkspace(Strict):
    """POST /admin/workspaces."""

    name: Name
    strict: bool = False
    id: Id | None = None


class KeyLimits(Strict):
    """What a key may do; null is without that limit, and a spend limit without a reset is for the key's lifetime."""

    expires_at: Moment | None = None
    spend_limit_usd: SpendLimitPico | None = None
    limit_reset: LimitReset | None = None
    requests_per_minute: RequestsPerMinute | None = None
    tokens_per_minute: TokensPerMinute | None = None

    def columns(self) -> dict[str, Any]:
        """The columns of `api_key` that were sent."""
        sent = self.model_dump(exclude_unset=True, exclude={"secret"})
        return {"spend_limit_pico" if name == "spend_limit_usd" else name: value for name, value in sent.items()}


class NewKey(KeyLimits):
    """POST /admin/workspaces/{id}/keys. `secret` makes a given text the key, for bootstrapping only."""

    label: Name
    secret: Annotated[str, Field(pattern=r"^[!-~]{8,200}$")] | None = None


class Changes(Strict):
    """A PATCH: what is sent is changed, and what is left out stays as it is."""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"nothing to change: give one or more of {', '.join(type(self).model_fields)}")
        return self


# A member without a default could not be left out; one with a default of its own type cannot be null.
class WorkspaceChanges(Changes):
    """PATCH /admin/workspaces/{id}."""

    name: Name = Field(default_factory=str)
    strict: bool = Field(default_factory=bool)


class KeyChanges(Changes, KeyLimits):
    """PATCH /admin/keys/{key_id}: null takes a limit away."""

    label: Name = Field(default_factory=str)


class NewCredit(Strict):
    """POST /admin/workspaces/{id}/credits."""

    amount_usd: AmountPico
    reference: Name
    reason: Name | None = None
    contra: Literal["cash", "promo"] = "cash"


class NewRefund(Strict):
    """POST /admin/workspaces/{id}/refunds: of the entry it reverses, all that is left where no amount is given."""

    reverses: Uuid
    reference: Name
    reason: Name
    amount_usd: AmountPico | None = None


class NewAdjustment(Strict):
    """POST /admin/workspaces/{id}/adjustments: up, or down with a minus sign."""

    amount_usd: SignedPico
    reference: Name
    reason: Name


Movement = NewCredit | NewRefund | NewAdjustment
"""A movement of credit that no request makes."""
