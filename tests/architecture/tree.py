"""The source tree as the architecture tests see it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "pillarbox"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module of the library: its dotted name, its length in lines, its syntax tree."""

    name: str
    path: Path
    lines: int
    tree: ast.Module


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the library, in the order of their paths."""
    return tuple(_module(path) for path in sorted(PACKAGE.rglob("*.py")))


def _module(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(SOURCE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, path=path, lines=len(text.splitlines()), tree=ast.parse(text, filename=str(path)))


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield the dotted name and the node of each function of ``module``, methods and inner functions included."""
    yield from _functions(module.tree, module.name)


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | Function):
            name = f"{prefix}.{child.name}"
            if isinstance(child, Function):
                yield name, child
            yield from _functions(child, name)
        else:
            yield from _functions(child, prefix)


def classes(module: Module) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the dotted name and the node of each class at the top of ``module``."""
    for node in module.tree.body:
        if isinstance(node, ast.ClassDef):
            yield f"{module.name}.{node.name}", node
