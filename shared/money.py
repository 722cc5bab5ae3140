"""Money in whole pico-dollars (1e-12 USD): `int` from the price list to the ledger, so nothing is ever rounded.

Pico because $3.00 per 1M tokens is 3,000,000 pico per token, and every price with at most six decimals per 1M
is a whole number; nano would already fail at half of $0.025 per 1M. No float is used in this module, or accepted.
"""

import re
from dataclasses import dataclass, fields
from typing import Self

PICO_PER_USD = 10**12
_DECIMAL = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,12}))?")  # 18 digits of USD are more than there are
TOKENS_PER_PRICE = 10**6  # prices are quoted per 1M tokens


class MoneyError(ValueError):
    """An amount that cannot be written as a whole number of pico-dollars."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a request used, in disjoint buckets: each token stands in exactly one of the first five.

    `reasoning` is a part of `output`, kept for the itemised usage; it is never priced by itself.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            count = getattr(self, field.name)
            if type(count) is not int or count < 0:
                raise ValueError(f"tokens.{field.name} is {count!r}: a count is a whole number, and never negative")

    @property
    def prompt(self) -> int:
        """Everything that went in, cached or not."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h

    @property
    def total(self) -> int:
        """Everything that went in and came out."""
        return self.prompt + self.output


@dataclass(frozen=True, slots=True)
class Rates:
    """Prices in pico-dollars per token, one for each priced bucket of `Tokens`."""

    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int

    @classmethod
    def per_million(cls, input: str, output: str, cache_read: str | None, cache_write: str | None) -> Self:
        """Rates from prices in USD per 1M tokens; without a price of its own a cache token costs the input rate.

        A cache write kept for an hour costs twice the input rate
        (docs.claude.com, "Prompt caching", pricing table).
        """
        rate = pico_per_token(input)
        return cls(
            input=rate,
            cache_read=rate if cache_read is None else pico_per_token(cache_read),
            cache_write=rate if cache_write is None else pico_per_token(cache_write),
            cache_write_1h=2 * rate,
            output=pico_per_token(output),
        )

    def halved(self) -> Self:
        """Half of every rate, as the flex tier costs. Raises MoneyError where a half would not be whole."""
        rates = {field.name: getattr(self, field.name) for field in fields(self)}
        if odd := [name for name, rate in rates.items() if rate % 2]:
            raise MoneyError(f"half of the {odd[0]} rate is no whole number of pico-dollars per token")
        return type(self)(**{name: rate // 2 for name, rate in rates.items()})


def cost_pico(tokens: Tokens, rates: Rates) -> int:
    """The exact price of a request: the sum over the buckets of tokens × rate."""
    return (
        tokens.input * rates.input
        + tokens.cache_read * rates.cache_read
        + tokens.cache_write * rates.cache_write
        + tokens.cache_write_1h * rates.cache_write_1h
        + tokens.output * rates.output
    )


def pico_per_token(usd_per_million: str) -> int:
    """The rate of a price such as "1.25" USD per 1M tokens: 1_250_000 pico per token."""
    rate, remainder = divmod(pico_usd(usd_per_million), TOKENS_PER_PRICE)
    if rate < 0 or remainder:
        raise MoneyError(f"{usd_per_million!r} USD per 1M tokens is negative or has more than 6 decimals")
    return rate


def pico_usd(usd: str) -> int:
    """The amount of a decimal string such as "10" or "-0.000094" USD, in pico-dollars."""
    if not isinstance(usd, str):
        raise MoneyError(f"{usd!r} is not a string: write amounts as decimal strings, never as floats")
    if not (match := _DECIMAL.fullmatch(usd)):
        raise MoneyError(f"{usd!r} is not a decimal number of USD with at most 12 decimals")
    sign, whole, fraction = match.groups(default="")
    return int(f"{sign}{whole}{fraction.ljust(12, '0')}")


def usd(pico: int) -> str:
    """A plain decimal string of USD, without an exponent or trailing zeros: 94_000_000 is "0.000094"."""
    whole, fraction = divmod(abs(pico), PICO_PER_USD)
    digits = f"{whole}.{fraction:012d}".rstrip("0").rstrip(".")
    return f"-{digits}" if pico < 0 else digits
