"""What the admin API answers, as models: for its OpenAPI document, and for tests of real answers."""

from typing import Annotated, Any

from pydantic import Field

from services.billing.answers import Answer, Moment, Page, Usd
from services.billing.windows import LimitReset


class Workspace(Answer):
    """Who owns credit and keys."""

    id: str
    name: str
    strict: bool
    created_at: Moment


class Key(Answer):
    """A key without its text."""

    key_id: str
    workspace_id: str
    label: str
    expires_at: Moment | None
    revoked_at: Moment | None
    spend_limit_usd: Usd | None
    limit_reset: LimitReset | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: Moment


class MadeKey(Key):
    """A key with its text, which is shown this once."""

    secret: str


class Call(Answer):
    """What an administrator called, written down before it was carried out: whether it was, the books tell."""

    id: str
    actor: Annotated[str, Field(description="`admin`, or `admin:<name>` with the name of x-opentoken-actor")]
    method: str
    path: str
    body: Annotated[str, Field(description="the JSON that was sent, without secrets; empty where it was none")]
    workspace_id: str | None
    recorded_at: Moment


class SetAside(Answer):
    """What came and was not booked; in a list, `body` ends after 1,000 bytes."""

    digest: Annotated[str, Field(description="SHA-256 of the whole body")]
    body: Annotated[str, Field(description="as text; bytes that are no UTF-8 as \\xNN")]
    body_bytes: int
    recorded_at: Moment


class Quarantined(SetAside):
    """What could not be booked at all."""

    reason: str


class Conflicting(SetAside):
    """A second, different record of a request whose first one stands."""

    request_id: str


class Difference(Answer):
    """What a column of the record that stands holds, and what came."""

    stands: Any
    came: Any


class Conflict(Conflicting):
    """And in which columns it differs."""

    differs: dict[str, Difference]


class WorkspaceList(Page):
    """Workspaces by id."""

    data: list[Workspace]


class KeyList(Page):
    """Keys by id."""

    data: list[Key]


class Log(Page):
    """Calls, the oldest first."""

    data: list[Call]


class QuarantineList(Page):
    """The oldest first."""

    data: list[Quarantined]


class ConflictList(Page):
    """The oldest first."""

    data: list[Conflicting]
