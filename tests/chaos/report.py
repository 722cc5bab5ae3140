"""What a chaos run did and found, as a table, and what has to hold of it."""

from collections import Counter
from dataclasses import dataclass

from tests.faults.books import Books


@dataclass(frozen=True, slots=True)
class Report:
    """`kills`, `stops`, `cuts`: by what was struck; `ends`: by who ended then by itself.

    `failures`: how calls ended that saw no whole answer. `copied`: messages published a second time.
    """

    title: str
    kills: Counter[str]
    stops: Counter[str]
    cuts: Counter[str]
    ends: Counter[str]
    calls: int
    failures: Counter[str]
    books: Books
    copied: int
    malformed: int
    quarantined: int
    parked: int
    conflicts: int
    verified: str

    def table(self) -> str:
        """For people."""
        books = self.books
        rows: dict[str, object] = {
            "kills": self.kills,
            "stopped for seconds": self.stops,
            "network cut or frozen": self.cuts,
            "ended by themselves": self.ends,
            "calls": self.calls,
            "answers seen whole": books.whole,
            "other ends of calls": self.failures,
            "records": books.records,
            "debits": books.debits,
            "on record, not seen whole": books.unseen,
            "messages published twice": self.copied,
            "malformed messages": self.malformed,
            "quarantined + parked": f"{self.quarantined} + {self.parked}",
            "conflicts kept aside": self.conflicts,
            "lost, doubled": f"{len(books.lost)}, {len(books.doubled)}",
            "difference": f"{books.difference_pico} pico-USD",
            "verify": self.verified,
        }
        return "\n".join([self.title, *(f"  {name:26}{_counted(value)}" for name, value in rows.items())]) + "\n"

    def assert_exact(self) -> None:
        """Nothing lost, nothing doubled, not a pico-dollar of difference; what is no event is kept aside."""
        self.books.assert_exact()
        assert self.quarantined + self.parked == self.malformed
        assert self.verified.endswith(" 0 findings")


def _counted(value: object) -> object:
    if not isinstance(value, Counter):
        return value
    parts = ", ".join(f"{name} {count}" for name, count in sorted(value.items()))
    return f"{value.total()}  ({parts})" if value else 0
