"""What the type checkers say of the errors; checked, never run."""

from datetime import timedelta
from typing import assert_type

from pillarbox.errors import (
    ConfigurationError,
    InvalidSetupError,
    LeaseLostError,
    NotFoundError,
    SchemaVersionError,
    ThrottledError,
)


def data_is_typed(setup: InvalidSetupError, schema: SchemaVersionError, lease: LeaseLostError) -> None:
    assert_type(setup.problems, tuple[ConfigurationError, ...])
    assert_type(schema.found, int | None)
    assert_type(lease.token, int | str)
    assert_type(ThrottledError("later").retry_after, timedelta | None)


def a_stranger_catches_the_built_in() -> str | None:
    try:
        raise NotFoundError(kind="dead letter", identifier="1")
    except LookupError as error:
        assert_type(error, LookupError)
        return str(error)
