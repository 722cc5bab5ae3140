"""The first workspace of a fresh installation: `demo`, with a given key and 10 USD, made once."""

import contextlib

from services.billing.accounts import Accounts, NewKey
from services.billing.errors import Conflict
from services.billing.ledger import Credit, Ledger
from shared.money import pico_usd

WORKSPACE = "demo"
CREDIT_USD = "10"


def bootstrap(accounts: Accounts, ledger: Ledger, key_text: str) -> None:
    """Make what is not there yet; every start of the service may call it. The key may have any form."""
    with contextlib.suppress(Conflict):
        accounts.create_workspace(WORKSPACE, WORKSPACE)
    try:
        accounts.create_key(NewKey(WORKSPACE, "bootstrap", secret=key_text))
    except Conflict:
        if not accounts.knows(key_text):  # another key with its public id: this one would not work
            raise
    ledger.credit(Credit(WORKSPACE, pico_usd(CREDIT_USD), "bootstrap", "bootstrap", contra="promo"))
