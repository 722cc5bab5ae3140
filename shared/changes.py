"""`account.changed`: the fact that a key, a limit or a credit is no longer as an edge may remember it.

One message is one CloudEvent 1.0 in JSON, attributes beside data as in HTTP's structured mode.
"""

from datetime import UTC, datetime
from typing import Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict

from shared.events import utc_text
from shared.ids import new_id

ACCOUNT_CHANGED: Final = "opentoken.account.changed.v1"
CONTENT_TYPE: Final = "application/cloudevents+json"


class AccountChanged(BaseModel):
    """What changed: one key, or, where `key_id` is None, a workspace with all of its keys.

    A `recall` changes nothing: credit ran short somewhere, so edges are to give back what they have left of theirs.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    workspace_id: str
    key_id: str | None = None
    reason: Literal["account", "recall"] = "account"

    def to_json(self) -> bytes:
        """The CloudEvent."""
        cloud_event = {
            "specversion": "1.0",
            "id": new_id(),
            "source": "/opentoken/billing",
            "type": ACCOUNT_CHANGED,
            "subject": self.workspace_id,
            "time": utc_text(datetime.now(UTC)),
            "datacontenttype": "application/json",
            "data": self.model_dump(),
        }
        return orjson.dumps(cloud_event)

    @classmethod
    def of_json(cls, message: bytes) -> Self:
        """The change in a CloudEvent. Raises ValueError."""
        event = orjson.loads(message)
        if not isinstance(event, dict) or event.get("type") != ACCOUNT_CHANGED:
            raise ValueError(f"not an event of type {ACCOUNT_CHANGED}")
        return cls.model_validate(event.get("data"))
