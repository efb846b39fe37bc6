"""JSON: dataclasses and Structs by msgspec, pydantic models by pydantic, with the same strictness for all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast

import msgspec

from pillarbox.errors import ConfigurationError, DecodeError, InvalidMessageError, PillarboxError
from pillarbox.errors.reading import read, text_of
from pillarbox.message.declare import message_type_of
from pillarbox.message.limits import Limits
from pillarbox.message.models import model_kind
from pillarbox.serialization.codec import Codec
from pillarbox.serialization.faults import MAX_DEPTH, find_fault, is_deeper_than
from pillarbox.serialization.shape import needs_walk

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_DEFAULT_LIMITS = Limits()
_MAX_REASONS = 5
_VALUE = re.compile(r"\A(Invalid (?:enum )?value) .*?( - at `[^`]*`)?\Z", re.DOTALL)
_WITHOUT_IT = r"\1\2"
"""What msgspec says of values that are none of those allowed."""


class _PydanticSerializer(Protocol):
    def to_json(self, value: object, /, *, by_alias: bool, round_trip: bool, warnings: Literal["error"]) -> bytes: ...


class _PydanticValidator(Protocol):
    def validate_json(self, data: bytes, /) -> object: ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """How messages of one class are encoded and decoded."""

    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]
    walk: bool


class JsonCodec(Codec):
    """Reads and writes ``application/json``, strictly, and refuses at publish what would be lost on the way.

    Refused by path: NaN and infinities, naive datetimes, lone surrogates, values of unknown types, values that their
    own annotation does not admit. To be sure of the last, each message is decoded once as it is encoded, so the
    checks in its ``__post_init__`` or validators run twice.

    Bytes travel as base64 in dataclasses and Structs; in pydantic models as their ``ser_json_bytes`` says.
    """

    def __init__(self, *, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Take the size above which a body is not even parsed."""
        self._max_body_bytes = limits.max_body_bytes
        self._encoder = msgspec.json.Encoder(enc_hook=_nested_to_json)
        self._plans: dict[type[object], _Plan] = {}

    def content_type(self) -> str:  # noqa: D102 the port documents it
        return "application/json"

    def prepare(self, python_type: type[object]) -> None:  # noqa: D102 the port documents it
        self._plan(python_type)

    def encode(self, message: object) -> bytes:  # noqa: D102 the port documents it
        plan = self._plans.get(type(message)) or self._plan(type(message))
        try:
            fault = find_fault(message) if plan.walk else None
            if fault is None:
                body = plan.encode(message)
                plan.decode(body)
                return body
        except MemoryError:
            raise
        except Exception as error:  # validators are the user's code and raise what they like
            found = _fault_or_none(message)
            raise _refusal(message, _clean_reason(error) if found is None else str(found)) from error
        raise _refusal(message, str(fault))

    def decode(self, body: bytes, python_type: type[T]) -> T:  # noqa: D102 the port documents it
        plan = self._plans.get(python_type) or self._plan(python_type)
        if len(body) > self._max_body_bytes:
            raise DecodeError(message_type=_name_of(python_type), reason=self._oversize(body))
        try:
            return cast("T", plan.decode(body))
        except MemoryError:
            raise
        except Exception as error:  # validators are the user's code and raise what they like
            raise DecodeError(message_type=_name_of(python_type), reason=_clean_reason(error)) from error

    def decode_untyped(self, body: bytes) -> object:  # noqa: D102 the port documents it
        if len(body) > self._max_body_bytes:
            raise DecodeError(reason=self._oversize(body))
        try:
            decoded: object = msgspec.json.decode(body)
        except (ValueError, RecursionError) as error:
            raise DecodeError(reason=_clean_reason(error)) from error
        if is_deeper_than(decoded, MAX_DEPTH):
            raise DecodeError(reason=f"it is nested deeper than {MAX_DEPTH} levels")
        return decoded

    def convert(self, builtins: object, python_type: type[T]) -> T:  # noqa: D102 the port documents it
        try:
            fault = find_fault(builtins)
            body = b"" if fault else self._encoder.encode(builtins)
        except (TypeError, ValueError, RecursionError) as error:
            raise DecodeError(message_type=_name_of(python_type), reason=_clean_reason(error)) from error
        if fault is not None:
            raise DecodeError(message_type=_name_of(python_type), reason=str(fault))
        return self.decode(body, python_type)

    def _plan(self, python_type: type[object]) -> _Plan:
        if model_kind(python_type) == "pydantic":
            plan = _Plan(encode=_pydantic_to_json, decode=_validator_of(python_type).validate_json, walk=True)
        else:
            walk = needs_walk(python_type)
            try:
                decoder = msgspec.json.Decoder(python_type, dec_hook=_nested_from_builtins)
            except TypeError as error:
                msg = f"{python_type.__qualname__} cannot be carried as JSON: {error}"
                raise ConfigurationError(msg) from error
            plan = _Plan(encode=self._encoder.encode, decode=decoder.decode, walk=walk)
        self._plans[python_type] = plan
        return plan

    def _oversize(self, body: bytes) -> str:
        return f"it is {len(body)} bytes long, at most {self._max_body_bytes} are read"


def _validator_of(cls: type[object]) -> _PydanticValidator:
    return cast("_PydanticValidator", getattr(cls, "__pydantic_validator__"))  # noqa: B009 pydantic is optional


def _pydantic_to_json(model: object) -> bytes:
    serializer = cast("_PydanticSerializer", getattr(type(model), "__pydantic_serializer__"))  # noqa: B009 as above
    return serializer.to_json(model, by_alias=True, round_trip=True, warnings="error")


def _nested_to_json(value: object) -> msgspec.Raw:
    if model_kind(type(value)) == "pydantic":
        return msgspec.Raw(_pydantic_to_json(value))
    msg = f"values of type {type(value).__qualname__} cannot be encoded"
    raise TypeError(msg)


def _nested_from_builtins(cls: type[object], value: object) -> object:
    if model_kind(cls) == "pydantic":
        return _validator_of(cls).validate_json(msgspec.json.encode(value))
    return value  # a field annotated as `object` takes what there is


def _fault_or_none(message: object) -> str | None:
    try:
        fault = find_fault(message, known_types_only=True)
    except Exception:  # this only words an error that is raised anyway
        return None
    return None if fault is None else str(fault)


def _refusal(message: object, reason: str) -> InvalidMessageError:
    return InvalidMessageError(message_type=_name_of(type(message)), reason=reason)


def _name_of(python_type: type[object]) -> str:
    try:
        return message_type_of(python_type).name
    except ConfigurationError:
        return python_type.__qualname__


def _clean_reason(error: Exception) -> str:
    """Word ``error`` without the values it complains about: reasons are logged, bodies are not."""
    if isinstance(error, PillarboxError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    details: object = read(error, "errors")
    if callable(details) and type(error).__name__ == "ValidationError":
        rows = cast("list[dict[str, object]]", details(include_url=False, include_context=False, include_input=False))
        return "; ".join(_pydantic_reason(row) for row in rows[:_MAX_REASONS])
    return f"{type(error).__name__}: {_VALUE.sub(_WITHOUT_IT, text_of(error))}"


def _pydantic_reason(row: dict[str, object]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in cast("tuple[object]", row["loc"]))
    return f"{row['msg']} - at `${path}`"
