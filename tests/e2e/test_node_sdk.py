"""The official OpenAI SDK for Node, with the base URL and the key changed and nothing else."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.ids import request_id_of
from tests.e2e.stacks import Stack

pytestmark = pytest.mark.node

NODE = Path(__file__).with_name("node")
TIMEOUT_S = 120.0  # an install over a slow line; a run takes a second


@pytest.fixture(scope="session")
def installed() -> Path:
    """The script beside its packages, in a cache folder that belongs to this lock file alone."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, so the SDK for Node is not tested")
    lock = hashlib.sha256((NODE / "package-lock.json").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opentoken" / f"node-{lock}"
    cache.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "package-lock.json", "calls.mjs"):
        shutil.copy(NODE / file, cache)
    done = cache / "node_modules" / ".package-lock.json"  # the last thing that npm writes
    if not done.exists():
        try:
            run(cache, "npm", "ci", "--no-audit", "--no-fund")
        except (AssertionError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm cannot install the SDK for Node: {error}")
    return cache


@pytest.fixture
def read(installed: Path, stack: Stack) -> dict[str, Any]:
    """What the script read."""
    return json.loads(run(installed, "node", "calls.mjs", stack.base_url, stack.key))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdk_for_node_reads_whole_answers_streams_vectors_models_and_errors(read: dict[str, Any]) -> None:
    for call in read["calls"]:
        whole, chunks = call["whole"], call["chunks"]
        text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
        assert text == whole["choices"][0]["message"]["content"] != ""
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    vectors, floats = ([item["embedding"] for item in read[kind]["data"]] for kind in ("vectors", "floats"))
    assert [len(vector) for vector in vectors] == [768, 768]
    assert vectors[1] == pytest.approx(floats[1], abs=1e-6)
    assert len(read["models"]) == 10
    assert request_id_of(read["unknown"].pop("requestID"))
    assert read["unknown"] == {"kind": "BadRequestError", "status": 400, "code": "model_not_found"}
