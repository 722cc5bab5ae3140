"""The refusals of billing's own API that no other service needs (`shared.errors` has the tree), and a driver's told."""

from sqlalchemy.exc import DataError, OperationalError

from shared.errors import InvalidRequest


class Conflict(InvalidRequest):
    """it exists already, with other content"""

    status = 409


def unreadable(error: Exception) -> bool:
    """Whether it is about a value that stands in the database, where nobody honest can have put it.

    Rows that are left out of the query can then still be read.
    """
    if isinstance(error, OperationalError):  # SQLite's driver says so of bytes that are no text, and of much else
        return "decode to UTF-8" in str(error.orig)
    return isinstance(error, ValueError | DataError)
