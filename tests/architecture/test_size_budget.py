"""Modules, functions, ports and packages stay small enough to read."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.architecture.tree import Function, classes, functions, modules

MODULE_LINES = 400
MODULE_LINES_MEDIAN = 150
FUNCTION_LINES = 60
PARAMETERS = 7
OPTIONS = 14  # keyword-only options of the public face's decorators and of the commands
PORT_METHODS = 7
PUBLIC_NAMES = 20
FACADE_NAMES = 40
FACADES = (  # used one by one
    "pillarbox",
    "pillarbox.errors",
    "pillarbox.idempotency",
    "pillarbox.observe",
    "pillarbox.testing.contracts",
)

# These take their options as keywords because a user writes them beside a handler or on a command line.
DECORATORS = frozenset({"on", "step", "request", "compensate", "event", "command", "include"})
OPTION_BEARERS = ("pillarbox.cli.", "pillarbox.app.Pillarbox.__init__", "pillarbox.consumer.handlers.Handlers.__init__")

ALLOWANCES = Path(__file__).with_name("size_allowances.txt")
ALLOWANCES_AT_MOST = 0

Measured = dict[tuple[str, str], int]


def _too_long() -> Iterator[tuple[tuple[str, str], int]]:
    for module in modules():
        if module.lines > MODULE_LINES:
            yield ("module", module.name), module.lines
        for name, function in functions(module):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > FUNCTION_LINES:
                yield ("function", name), lines


def _too_wide() -> Iterator[tuple[tuple[str, str], int]]:
    for module in modules():
        for name, function in functions(module):
            positional, options = _parameters(function)
            limit = OPTIONS if _takes_options(name) else PARAMETERS - positional
            if options > max(limit, 0) or positional > PARAMETERS:
                yield ("parameters", name), positional + options


def _parameters(function: Function) -> tuple[int, int]:
    arguments = function.args
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if positional[:1] in (["self"], ["cls"]):
        positional = positional[1:]
    return len(positional), len(arguments.kwonlyargs)


def _takes_options(name: str) -> bool:
    return name.rpartition(".")[2] in DECORATORS or name.startswith(OPTION_BEARERS)


def _too_many_methods() -> Iterator[tuple[tuple[str, str], int]]:
    for module in modules():
        for name, node in classes(module):
            if not any(_base_name(base) == "Protocol" for base in node.bases):
                continue
            methods = {child.name for child in node.body if isinstance(child, Function) and child.name[:2] != "__"}
            if len(methods) > PORT_METHODS:
                yield ("port", name), len(methods)


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        return _base_name(base.value)
    return base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def _too_many_names() -> Iterator[tuple[tuple[str, str], int]]:
    for module in modules():
        if module.path.name != "__init__.py":
            continue
        names = len(_public_names(module.tree))
        if names > (FACADE_NAMES if module.name in FACADES else PUBLIC_NAMES):
            yield ("names", module.name), names


def _public_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def _allowances() -> Measured:
    allowed: Measured = {}
    for line in ALLOWANCES.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            kind, name, size, _reason = line.split(maxsplit=3)
            allowed[(kind, name)] = int(size)
    return allowed


def _beyond(measured: Iterator[tuple[tuple[str, str], int]]) -> Measured:
    allowed = _allowances()
    return {what: size for what, size in measured if allowed.get(what) != size}


def test_no_module_and_no_function_is_too_long_to_read() -> None:
    assert _beyond(_too_long()) == {}


def test_no_function_takes_too_many_parameters() -> None:
    assert _beyond(_too_wide()) == {}


def test_no_port_has_too_many_methods() -> None:
    assert _beyond(_too_many_methods()) == {}


def test_no_package_shows_too_many_names() -> None:
    assert _beyond(_too_many_names()) == {}


def test_half_of_the_modules_are_short() -> None:
    assert median(module.lines for module in modules()) <= MODULE_LINES_MEDIAN


def test_the_allowances_only_shrink() -> None:
    measured = dict([*_too_long(), *_too_wide(), *_too_many_methods(), *_too_many_names()])

    allowed = _allowances()

    assert allowed.keys() <= measured.keys(), "an allowance is no longer needed: remove it"
    assert len(allowed) <= ALLOWANCES_AT_MOST
