"""Where the command line finds billing, and its credentials."""

import json
from pathlib import Path

from pydantic import SecretStr

from shared.settings import Environment

CREDENTIALS = "credentials.json"
BILLING_URL = "http://127.0.0.1:8090"  # of a local stack with the ports that it has by default


class Settings(Environment):
    """Billing's URL and the token may also lie in the data dir, where the local stack leaves them."""

    billing_url: str | None = None
    admin_token: SecretStr | None = None
    actor: str | None = None
    database_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    data_dir: Path = Path(".opentoken")
    signing_key_file: Path | None = None
    checkpoint_dir: Path | None = None

    def ledger_url(self) -> str:
        """The ledger's database: OPENTOKEN_DATABASE_URL, or else the local stack's file in the data dir."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir / 'ledger.db'}"

    def checkpoints(self) -> Path:
        """Where billing exports its signed checkpoints."""
        return self.checkpoint_dir or self.data_dir / "checkpoints"

    def public_keys(self) -> Path:
        """The public keys beside the key that signs."""
        file = self.signing_key_file or self.data_dir / "signing.key"
        return file.with_name(f"{file.name}.pub")

    def url(self) -> str:
        """Where billing is, from the environment or else from the data dir."""
        return self.billing_url or self._left("billing_url") or BILLING_URL

    def token(self) -> str | None:
        """The admin token, from the environment or else from the data dir."""
        return self.admin_token.get_secret_value() if self.admin_token else self._left("admin_token")

    def _left(self, name: str) -> str | None:
        try:
            left = json.loads((self.data_dir / CREDENTIALS).read_text("utf-8"))[name]
        except (OSError, ValueError, KeyError, TypeError):  # no such file, or not the local stack's
            return None
        return left if isinstance(left, str) else None
