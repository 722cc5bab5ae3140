"""The refusals of billing's own API that no other service needs; see `shared.errors` for the tree they hang in."""

from shared.errors import InvalidRequest


class Conflict(InvalidRequest):
    """it exists already, with other content"""

    status = 409
