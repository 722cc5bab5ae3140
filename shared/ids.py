"""The one id of a request: a UUIDv7 (RFC 9562), minted by the edge and kept for ever.

It is the `x-request-id`, the log key, the usage record's primary key and, behind `chatcmpl-`, the answer's id.
"""

import re

import uuid_utils

CHAT_PREFIX = "chatcmpl-"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_id() -> str:
    """A fresh UUIDv7, lower case, in the canonical form."""
    return str(uuid_utils.uuid7())


def request_id_of(name: str) -> str | None:
    """The request id in `chatcmpl-<id>` or `<id>`; None where `name` is neither."""
    bare = name.removeprefix(CHAT_PREFIX).lower()
    return bare if _UUID.fullmatch(bare) else None
