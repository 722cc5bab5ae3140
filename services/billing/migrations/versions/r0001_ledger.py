"""Version 0001: workspaces, keys, the append-only ledger, and the working tables beside it."""

from pathlib import Path

from alembic import op

from services.billing.database import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make everything. There is no way down: a ledger is not taken away."""
    connection = op.get_bind()
    run_script(connection, Path(__file__).with_name(f"r0001_ledger.{connection.dialect.name}.sql").read_text("utf-8"))
