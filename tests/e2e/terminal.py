"""An operator at a terminal: the `opentoken` command as a process of its own."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.e2e.stacks import ADMIN, FOREIGN, ROOT, Stack

TIMEOUT_S = 60.0


def opentoken(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the stack's billing, with its admin token."""
    env = {key: value for key, value in os.environ.items() if not FOREIGN.match(key)} | {
        "OPENTOKEN_BILLING_URL": stack.billing_url,
        "OPENTOKEN_ADMIN_TOKEN": ADMIN,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "services.cli", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def admin(stack: Stack, *arguments: str) -> dict[str, Any]:
    """The one row that an admin command prints; it has to succeed."""
    done = opentoken(stack, "admin", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)
