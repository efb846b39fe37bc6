"""The drawing in ``pillarbox.errors`` is the tree of classes."""

import inspect
import pickle
import re
from datetime import timedelta

import pytest

from pillarbox import errors

LINE = re.compile(r"^ {4}(?P<rails>[│ ]*)(?:[├└]── )?(?P<name>[A-Z]\w+Error)\b(?P<remark>.*)$")
ALSO = re.compile(r"\balso (\w+)$")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Read the drawing: class → its parent in the library, and the built-in that it also is."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        depth = 0 if not path else len(found["rails"]) // 4 + 1
        path[depth:] = [found["name"]]
        also = ALSO.search(found["remark"])
        tree[found["name"]] = (path[depth - 1] if depth else None, also[1] if also else None)
    return tree


def written() -> dict[str, tuple[str | None, str | None]]:
    """Read the same from the classes."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(kind, errors.PillarboxError):
            continue
        ours = [base.__name__ for base in kind.__bases__ if issubclass(base, errors.PillarboxError)]
        builtin = [base for base in kind.__bases__ if base.__module__ == "builtins" and base is not Exception]
        tree[name] = (ours[0] if ours else None, builtin[0].__name__ if builtin else None)
    return tree


def test_the_drawing_of_the_errors_is_the_tree_of_classes() -> None:
    assert drawn() == written()


def test_every_error_of_the_library_stands_in_the_tree_of_errors() -> None:
    import pillarbox

    kinds = _descendants(pillarbox.errors.PillarboxError)
    outside = [kind for kind in kinds if kind.__module__.rpartition(".")[0] != errors.__name__]

    assert not outside


def _descendants(kind: type) -> list[type]:
    return [found for child in kind.__subclasses__() for found in (child, *_descendants(child))]


@pytest.mark.parametrize(
    "error",
    [
        errors.ThrottledError("slow down", retry_after=timedelta(seconds=3)),
        errors.MissingExtraError(module="asyncpg", extra="postgres", needed_for="the PostgreSQL store"),
        errors.StoreUnavailableError(store="postgresql", reason="connection refused"),
        errors.LeaseLostError(lease="slot 7", token=3),
        errors.InvalidSetupError(problems=[errors.SchemaVersionError(found=None, expected=1)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_a_process_border_with_its_text_and_its_data(error: errors.PillarboxError) -> None:
    came = pickle.loads(pickle.dumps(error))

    assert type(came) is type(error)
    assert str(came) == str(error)
    assert vars(came).keys() == vars(error).keys()


@pytest.mark.parametrize(
    ("found", "advice"),
    [(None, "pillarbox migrate"), (1, "pillarbox migrate"), (9, "upgrade Pillarbox")],
)
def test_a_wrong_schema_version_says_what_to_do(found: int | None, advice: str) -> None:
    assert advice in str(errors.SchemaVersionError(found=found, expected=5))
