"""Every invariant of the books, checked on the books themselves: `CHECKS`, each a function from a database to findings.

All of them read within one transaction, so they judge one moment, whatever is booked meanwhile. What they need is a
connection that may SELECT, and nothing of the service's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.billing.errors import unreadable
from services.billing.integrity import Progress, Published, tree_findings
from services.billing.invariants import QUERIES, Finding, violations
from services.billing.scan import sizes

Check = Callable[[Connection, Sequence[Published], Progress], Iterator[Finding]]


QUERY_PART = 20  # a query over all rows takes about as long as the walk over a twentieth of the leaves


def _query(check: str, connection: Connection, _: Sequence[Published], progress: Progress) -> Iterator[Finding]:
    yield from violations(connection, check)
    progress(sum(sizes(connection).values()) // QUERY_PART)


def work(leaves: int) -> int:
    """How much of progress there is to be told of, where the trees have so many leaves."""
    return leaves + len(QUERIES) * (leaves // QUERY_PART)


CHECKS: Final[Mapping[str, Check]] = {
    "tree": tree_findings,
    **{name: partial(_query, name) for name in QUERIES},
}
"""The checks by name."""


def verify(connection: Connection, published: Sequence[Published], progress: Progress) -> Iterator[Finding]:
    """What any of the checks finds; nothing, where the books are as they were written.

    A check that what stands there brings to a stop has found something: nobody honest can have put it there.
    """
    for name, check in CHECKS.items():
        try:
            with connection.begin_nested():
                yield from check(connection, published, progress)
        except (TypeError, ValueError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not unreadable(error):
                raise
            yield Finding(name, "the check itself", "values that can be read", f"{type(error).__name__}: {error}")
