"""The signed checkpoints that the trees are held against: those in the ledger, and those kept outside of it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sqlalchemy import Connection, select

from services.billing.checkpoint import NoteError, PublicKey, verified
from services.billing.integrity import Published
from services.billing.invariants import Finding
from services.billing.tables import signed_checkpoint


def kept_outside(directory: Path, keys: Sequence[PublicKey]) -> Iterator[Published | Finding]:
    """The notes in a directory to which checkpoints were exported. Raises OSError."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield _read(path.read_bytes().decode("utf-8", "replace"), str(path), keys)


def kept_inside(connection: Connection, keys: Sequence[PublicKey]) -> Iterator[Published | Finding]:
    """The notes in the ledger itself: they tell nothing of who can write there, but must be true all the same."""
    columns = signed_checkpoint.c
    for shard, size, note in connection.execute(select(columns.shard, columns.tree_size, columns.note)):
        name = f"signed_checkpoint {shard}/{size}"
        read = _read(note or "", name, keys)
        if isinstance(read, Published) and (read.shard, read.size) != (shard, size):
            read = Finding("signature", name, f"a note of {size} leaves of shard {shard}", "a note of another tree")
        yield read


def sorted_out(read: Iterable[Published | Finding]) -> tuple[list[Published], list[Finding]]:
    """What can be relied on, once each; and what cannot."""
    published, findings = dict[tuple[int, int, bytes], Published](), list[Finding]()
    for each in read:
        if isinstance(each, Finding):
            findings.append(each)
        else:
            published[each[:3]] = each
    return list(published.values()), findings


def _read(note: str, source: str, keys: Sequence[PublicKey]) -> Published | Finding:
    try:
        checkpoint = verified(note, keys)
        return Published(int(checkpoint.origin.rpartition("/")[2]), checkpoint.size, checkpoint.root, source)
    except (NoteError, ValueError) as error:
        return Finding("signature", source, "a checkpoint signed with one of the keys given", str(error))
