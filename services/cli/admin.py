"""`opentoken admin …`: workspaces, keys, limits and credit, over billing's admin API."""

import typer

from services.cli import credit, keys, review, workspaces

app = typer.Typer(
    no_args_is_help=True,
    help="Administer workspaces, keys, limits and credit.",
    epilog="OPENTOKEN_BILLING_URL says where billing is, OPENTOKEN_ADMIN_TOKEN lets you in; beside a running `make "
    "run` both are found. OPENTOKEN_ACTOR names you in the log and in the books.",
)
app.add_typer(workspaces.app, name="workspace")
app.add_typer(keys.app, name="key")
app.add_typer(keys.limits, name="limit")
app.add_typer(credit.app, name="credit")
app.command()(review.log)
app.add_typer(review.quarantine, name="quarantine")
app.add_typer(review.conflict, name="conflict")
