"""The library runs no text as code and restores no objects from bytes."""

import ast
from collections.abc import Iterator

from tests.architecture.tree import Module, modules

MODULES = frozenset({"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"})
BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
QUALIFIED = frozenset({"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "builtins.eval", "builtins.exec"})


def _forbidden(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(source)) if source.partition(".")[0] in MODULES:
                found = [source]
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                found = [name]
            case ast.Call(func=ast.Attribute() as called) if ast.unparse(called) in QUALIFIED:
                found = [ast.unparse(called)]
            case _:
                found = []
        yield from (f"{module.name}:{getattr(node, 'lineno', 0)} {name}" for name in found)


def test_the_library_neither_unpickles_nor_evaluates_text() -> None:
    assert [place for module in modules() for place in _forbidden(module)] == []


def test_the_search_finds_what_it_looks_for() -> None:
    text = "import pickle\nfrom marshal import loads\neval('1')\nyaml.load(x)\ntx.exec(1)\nre.compile('x')\n"
    module = Module(name="m", path=modules()[0].path, lines=6, tree=ast.parse(text))

    assert list(_forbidden(module)) == ["m:1 pickle", "m:2 marshal", "m:3 eval", "m:4 yaml.load"]
