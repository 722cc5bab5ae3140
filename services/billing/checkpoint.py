"""Signed checkpoints: a tree's size and root as a note that anyone can keep and check, without us.

The text is a checkpoint of C2SP's tlog-checkpoint (origin, size, root in base64), signed as in its signed-note with
Ed25519; key files hold that format's encoded keys. Formats: https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from services.billing.merkle import HASH_BYTES

PRIVATE = "PRIVATE+KEY+"  # how the text of a key that signs begins
ED25519 = b"\1"  # signed-note's number for the algorithm
KEY_ID_BYTES = 4
MAX_NOTE_BYTES = 64 * 1024  # a note of ours has a few hundred; a file that is larger is none
_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_SIGNATURE = re.compile(r"— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/=]+)")


class NoteError(ValueError):
    """A note or key that is malformed, or a note that no known key signed; the message says which."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree at one size. `origin` names the log: the key's name, then the shard."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def of(cls, text: str) -> Self:
        """The checkpoint of a text. Raises NoteError."""
        origin, size, root, *_ = *text.split("\n"), "", ""
        hash_ = _decode(root)
        if not origin or not _SIZE.fullmatch(size) or len(hash_) != HASH_BYTES:
            raise NoteError("not a checkpoint: it takes an origin, a size and a root in base64, each on its line")
        return cls(origin, int(size), hash_)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What checks a signature. `id` tells keys of the same name apart, so that a key can be replaced."""

    name: str
    key: Ed25519PublicKey

    @property
    def id(self) -> bytes:
        """The first bytes of the hash of name and key."""
        named = self.name.encode() + b"\n" + ED25519 + self.key.public_bytes_raw()
        return hashlib.sha256(named).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.key.public_bytes_raw()).decode()}"

    @classmethod
    def of(cls, text: str) -> Self:
        """The key that `str` wrote. Raises NoteError."""
        name, _, rest = text.strip().partition("+")
        id_, _, encoded = rest.partition("+")
        if (found := cls(name, Ed25519PublicKey.from_public_bytes(_key_bytes(encoded)))).id.hex() != id_:
            raise NoteError("not a public key: its id does not fit its name and key")
        return found


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What signs. `name` becomes the first part of every checkpoint's origin."""

    name: str
    key: Ed25519PrivateKey

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise NoteError("a key's name has no spaces and no plus signs")

    @property
    def public(self) -> PublicKey:
        """The half that may be shown."""
        return PublicKey(self.name, self.key.public_key())

    def sign(self, shard: int, size: int, root: bytes) -> str:
        """The signed note of a shard's tree."""
        text = Checkpoint(origin(self.name, shard), size, root).text()
        signature = base64.b64encode(self.public.id + self.key.sign(text.encode())).decode()
        return f"{text}\n— {self.name} {signature}\n"

    def encoded(self) -> str:
        """The secret text of a key file."""
        seed = base64.b64encode(ED25519 + self.key.private_bytes_raw()).decode()
        return f"{PRIVATE}{self.name}+{self.public.id.hex()}+{seed}"

    @classmethod
    def of(cls, text: str) -> Self:
        """The key that `encoded` wrote. Raises NoteError, without the text."""
        parts = text.strip().split("+", 4)
        if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
            raise NoteError("not a signing key: it starts with PRIVATE+KEY+")
        found = cls(parts[2], Ed25519PrivateKey.from_private_bytes(_key_bytes(parts[4])))
        if found.public.id.hex() != parts[3]:
            raise NoteError("not a signing key: its id does not fit its name and key")
        return found


def origin(name: str, shard: int) -> str:
    """The name of one shard's log."""
    return f"{name}/{shard}"


def verified(note: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """The checkpoint that one of `keys` signed, whatever other signatures stand beside. Raises NoteError."""
    if len(note) > MAX_NOTE_BYTES:
        raise NoteError(f"not a signed note: longer than {MAX_NOTE_BYTES} bytes")
    text, blank, lines = note.rpartition("\n\n")
    found = [_SIGNATURE.fullmatch(line) for line in lines.splitlines()]
    if not blank or not lines.endswith("\n") or not all(found):
        raise NoteError("not a signed note: it takes a text, an empty line, then lines with signatures")
    signed = f"{text}\n"
    signatures = [(match["name"], _decode(match["signature"])) for match in found if match]
    for key in keys:
        for name, signature in signatures:
            if (name, signature[:KEY_ID_BYTES]) == (key.name, key.id):
                try:
                    key.key.verify(signature[KEY_ID_BYTES:], signed.encode())
                except InvalidSignature:
                    raise NoteError(f"the signature of {name}, key {key.id.hex()}, does not fit the text") from None
                return Checkpoint.of(signed)
    raise NoteError("not signed by any of the keys given")


def _key_bytes(encoded: str) -> bytes:
    raw = _decode(encoded)
    if len(raw) != 33 or raw[:1] != ED25519:
        raise NoteError("not an Ed25519 key of a signed note")
    return raw[1:]


def _decode(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError("not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise NoteError("not base64 in its one form")
    return raw
