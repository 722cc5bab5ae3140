import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_invariant_in_the_readme_is_held_by_a_test_that_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "services/billing/README.md").read_text("utf-8")))
    files = (ROOT / "tests").rglob("test_*.py")
    written = set(re.findall(r"def (test_\w+)\(", "".join(path.read_text("utf-8") for path in files)))
    assert named
    assert named <= written
