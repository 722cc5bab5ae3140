"""The directives that Google's wire can express, and the refusals among them."""

from services.simulator.directives import DirectiveError, Directives, parse
from services.simulator.google import errors
from services.simulator.google.errors import PER_DAY, PER_MINUTE, Refusal
from services.simulator.script import Call


class GoogleDirectives(Directives):
    """And what only Google does."""

    daily_quota: bool = False
    blocked: bool = False
    no_penalties: bool = False
    call: str | None = None


def in_force(call: Call, prompt: str) -> GoogleDirectives:
    """The prompt's directives on this attempt. Those that mean a Refusal are raised as one."""
    directives = parsed(prompt)
    if directives.fail_first:
        directives = directives.on_attempt(call.attempt())
    if directives.key_invalid:
        raise errors.key_invalid()
    if directives.daily_quota or directives.status == 429:
        quota = PER_DAY if directives.daily_quota else PER_MINUTE
        raise errors.exhausted(quota, directives.message, directives.retry_after)
    if directives.status is not None:
        told = [] if directives.retry_after is None else [errors.retry_info(directives.retry_after)]
        raise Refusal(directives.status, directives.message, *told)
    return directives


def parsed(prompt: str) -> GoogleDirectives:
    """The prompt's directives as they stand. Raises Refusal."""
    try:
        return parse(GoogleDirectives, prompt)
    except DirectiveError as error:
        raise Refusal(400, str(error)) from None
