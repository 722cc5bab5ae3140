"""`python -m services.local`: edge, workers, billing and, where no provider key is set, the simulator."""

import sys

from services.local.settings import LocalSettings, secrets_of, write_credentials
from services.local.stack import Running, running
from shared import catalog, http, log
from shared.bus.connect import require_topology
from shared.settings import load

GREETING = """\
OpenToken is ready.

  base URL   http://{host}:{edge}/v1
  key        {key}

  curl http://{host}:{edge}/v1/chat/completions \\
    -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  books      http://{host}:{billing}/v1/workspaces/demo/balance
  auditor    {auditor}
  admin      {admin}
  {providers}
  Ctrl-C ends it; the books stay in {data_dir}.
"""


async def serve(settings: LocalSettings) -> None:
    """Run the stack until told to stop."""
    await require_topology(settings.broker_url, shards=settings.ledger_shards, name="local")
    secrets, models = secrets_of(settings), catalog.load(settings.catalog)
    async with running(settings, secrets, models) as stack:
        write_credentials(settings, secrets | {"billing_url": f"http://{settings.host}:{stack.billing_port}"})
        sys.stdout.write(
            _greeting(settings, secrets, stack, next(m.id for m in models if "streaming" in m.capabilities))
        )
        sys.stdout.flush()
        await http.until_told_to_stop()


def _greeting(settings: LocalSettings, secrets: dict[str, str], stack: Running, model: str) -> str:
    simulated = ", ".join(stack.simulated)
    return GREETING.format(
        host=settings.host,
        model=model,
        edge=stack.edge_port,
        billing=stack.billing_port,
        key=secrets["bootstrap_key"],
        auditor=secrets["auditor_token"],
        admin=secrets["admin_token"],
        data_dir=settings.data_dir,
        providers=f"simulated  {simulated} (set a provider's API key for the real one)\n" if simulated else "",
    )


def main() -> None:
    """Run until Ctrl-C or SIGTERM."""
    settings = load(LocalSettings)
    log.configure(settings.log_format, settings.log_level)
    try:
        http.run(serve(settings))
    except OSError as error:
        sys.exit(f"{error}\nSet OPENTOKEN_EDGE_PORT or OPENTOKEN_BILLING_PORT to ports that are free.")


if __name__ == "__main__":
    main()
