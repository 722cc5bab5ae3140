"""The project's own Python files as data: what each imports, and which words its code uses."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def modules(*folders: str) -> dict[str, Path]:
    """Files by module name, below the given folders."""
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules that a file imports; `from a import b` counts as `a` and as `a.b`, since b may be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reach(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that a module imports, directly or not."""
    reached, waiting = set[str](), [module]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - reached:
            reached.add(name)
            waiting.append(name)
    return reached


def words(path: Path) -> Iterator[str]:
    """Identifiers and strings of a file; comments and docstrings may name what code may not."""
    tree = ast.parse(path.read_text("utf-8"))
    prose = {id(statement.value) for statement in ast.walk(tree) if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
