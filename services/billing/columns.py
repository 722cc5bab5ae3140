"""The types of columns that are not the same on both databases, though the Python values are.

SQLite compares what stands there, not what it means: so there a value in any form but the one that is written here is
refused when it is read.
"""

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from types import NoneType

from sqlalchemy import BigInteger, Boolean, DateTime, Dialect, Integer, Numeric, Text, TypeDecorator
from sqlalchemy.dialects.postgresql import UUID
from sqlalchemy.types import TypeEngine

from shared.events import utc_text

MOMENT_GLOB = "YYYY-YY-YYTYY:YY:YY.YYYYYYZ".replace("Y", "[0-9]")
"""The text of a moment on SQLite, for its GLOB."""


class Balance(TypeDecorator[int]):
    """A running balance: `int` here, NUMERIC(38,0) on PostgreSQL, INTEGER on SQLite."""

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[int] | TypeEngine[Decimal]:
        """The column's type."""
        return Numeric(38, 0) if dialect.name == "postgresql" else BigInteger()

    def process_result_value(self, value: int | Decimal | None, dialect: Dialect) -> int | None:
        """Exact, because the column holds no fraction. Raises ValueError where it is no integer."""
        if dialect.name == "sqlite" and type(value) not in {int, NoneType}:
            raise ValueError(f"{value!r} stands where a balance belongs")
        return None if value is None else int(value)


class Moment(TypeDecorator[datetime]):
    """A moment: an aware UTC datetime here, TIMESTAMPTZ on PostgreSQL, the text of `utc_text` on SQLite."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime] | TypeEngine[str]:
        """The column's type."""
        return DateTime(timezone=True) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """A naive datetime is a mistake, never a guess."""
        assert value is None or value.tzinfo is not None
        return value if value is None or dialect.name == "postgresql" else utc_text(value)

    def process_result_value(self, value: datetime | str | None, _: Dialect) -> datetime | None:
        """In UTC, whatever the session's time zone. Raises ValueError where a text is not that of `utc_text`."""
        if value is None or isinstance(value, datetime):
            return value and value.astimezone(UTC)
        return _moment(value)


@lru_cache(maxsize=4096)  # the rows of a batch share a time
def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(str(text))  # also of what is no text: it is none
    if moment.tzinfo is not UTC or utc_text(moment) != text:
        raise ValueError(f"{text!r} is not how a moment is written")
    return moment


class Flag(TypeDecorator[bool]):
    """A boolean: BOOLEAN on PostgreSQL, 0 or 1 on SQLite."""

    impl = Boolean
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[bool] | TypeEngine[int]:
        """The column's type."""
        return Boolean() if dialect.name == "postgresql" else Integer()

    def process_result_value(self, value: int | None, _: Dialect) -> bool | None:
        """Raises ValueError where it is neither."""
        if value not in {0, 1, None} or isinstance(value, float):
            raise ValueError(f"{value!r} stands where 0 or 1 belongs")
        return None if value is None else bool(value)


Id = Text().with_variant(UUID(as_uuid=False), "postgresql")
"""A UUID in its canonical text."""
