"""Declaring messages: ``@event`` and ``@command`` annotate a class and do nothing else.

Nothing is registered, so importing a module of messages has no effect on any box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar
from uuid import UUID

from pillarbox.errors import ConfigurationError, InvalidMessageError, MissingKeyError
from pillarbox.errors.values import FROM_ONE, check_value
from pillarbox.message.models import field_names, model_kind
from pillarbox.message.names import check_name, queue_destination, topic_destination, topic_of

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
KeySource: TypeAlias = "str | Callable[[Any], object]"  # Any: a lambda's parameter cannot be inferred here
MessageKind: TypeAlias = Literal["event", "command"]

_ATTRIBUTE = "__pillarbox_message__"
NO_ATTRIBUTES: Final[Mapping[str, object]] = {}
"""Of what is no class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageType:
    """What a declared class stands for on the wire.

    Attributes:
        name: The logical name, as in ``order.placed``.
        version: The version of its schema, from 1.
        kind: An event is heard by all who subscribe, a command is done by one.
        destination: ``topic:<name>`` for events, ``queue:<name>`` for commands.
        key_field: The field that holds the key; ``None`` without a key, or where a function makes it.
        key_function: Makes the key from the message; ``None`` where a field holds it.
        python_type: The declared class.
        numbered: Each message bears its number in the line of its destination and key.

    Source: EIP, *Event Message* and *Command Message*.
    """

    name: str
    version: int
    kind: MessageKind
    destination: str
    key_field: str | None
    key_function: Callable[[Any], object] | None
    python_type: type[object]
    numbered: bool = False


def event(
    name: str,
    /,
    *,
    key: KeySource | None = None,
    version: int = 1,
    topic: str | None = None,
    numbered: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Declare a class to be an event: a fact that every subscribed consumer gets.

    Put it above ``@dataclass``. Subclasses are not declared with it.

    Args:
        name: The logical name, which outlives the class's own.
        key: The field whose value keeps messages in order, or a function that makes it from the message.
        version: The version of the schema, from 1.
        topic: The topic; the part of ``name`` before its first dot unless given.
        numbered: Give each message the next number of its topic and key, without gaps, for consumers that are
            declared with ``ordering=BySequence()``. All types of a topic are numbered, or none.

    Raises:
        ConfigurationError: A name is not valid, ``key`` names no field, or the class is no dataclass,
            ``msgspec.Struct`` or pydantic model.
    """
    check_name(name, what="message type")
    destination = topic_destination(topic_of(name) if topic is None else topic)
    return _annotation(name, kind="event", destination=destination, key=key, version=version, numbered=numbered)


def command(
    name: str, /, *, queue: str, key: KeySource | None = None, version: int = 1, numbered: bool = False
) -> Callable[[type[T]], type[T]]:
    """Declare a class to be a command: an intent that exactly one consumer group gets.

    Put it above ``@dataclass``. Subclasses are not declared with it.

    Args:
        name: The logical name, which outlives the class's own.
        queue: The queue that it waits in.
        key: The field whose value keeps messages in order, or a function that makes it from the message.
        version: The version of the schema, from 1.
        numbered: Give each message the next number of its queue and key; all types of a queue are numbered, or none.

    Raises:
        ConfigurationError: A name is not valid, ``key`` names no field, or the class is no dataclass,
            ``msgspec.Struct`` or pydantic model.
    """
    return _annotation(
        name, kind="command", destination=queue_destination(queue), key=key, version=version, numbered=numbered
    )


def message_type_of(cls: type[object]) -> MessageType:
    """Return what ``cls`` was declared to be; what its base classes were does not count.

    Raises:
        ConfigurationError: The class bears no ``@event`` or ``@command`` of its own.
    """
    found: object = getattr(cls, "__dict__", NO_ATTRIBUTES).get(_ATTRIBUTE)
    if isinstance(found, MessageType) and found.python_type is cls:
        return found
    label = _label_of(cls)
    if isinstance(found, MessageType):
        msg = f"{label} was made anew after it was declared; put @{found.kind} above every other decorator"
    else:
        msg = f"{label} is not declared as a message; put @event(...) or @command(...) above the class"
    raise ConfigurationError(msg)


def _label_of(cls: object) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else f"{cls!r:.200}"


def is_message(cls: type[object]) -> bool:
    """Tell whether ``cls`` is declared as a message."""
    found: object = cls.__dict__.get(_ATTRIBUTE)
    return isinstance(found, MessageType) and found.python_type is cls


def key_of(message: object) -> str | None:
    """Return the key of a declared message as text; ``None`` where its class declares none.

    Texts, whole numbers, UUIDs and enumerations of them make keys.

    Raises:
        ConfigurationError: The class is not declared.
        MissingKeyError: The field is ``None``, as identifiers of an ORM are before the flush.
        InvalidMessageError: The value is of a type whose text could differ between services.
    """
    declared = message_type_of(type(message))
    if declared.key_field is not None:
        value: object = getattr(message, declared.key_field, None)
    elif declared.key_function is not None:
        value = declared.key_function(message)
    else:
        return None
    if type(value) is str:
        return value
    if value is None:
        raise MissingKeyError(message_type=declared.name, field=declared.key_field or "key")
    return _key_text(value, declared)


def _key_text(value: object, declared: MessageType) -> str:
    raw: object = value.value if isinstance(value, Enum) else value
    if isinstance(raw, str):
        return str(raw)
    if isinstance(raw, UUID) or (isinstance(raw, int) and not isinstance(raw, bool)):
        return str(raw)
    reason = f"its key is of type {type(value).__qualname__}; use a str, an int, a UUID or an enumeration of them"
    raise InvalidMessageError(message_type=declared.name, reason=reason)


def _annotation(
    name: str, *, kind: MessageKind, destination: str, key: KeySource | None, version: int, numbered: bool
) -> Callable[[type[T]], type[T]]:
    check_name(name, what="message type")
    check_value(version, int, name=f"message type {name!r}: version", bounds=FROM_ONE)

    def annotate(cls: type[T]) -> type[T]:
        _check_class(cls, name=name, kind=kind, key=key)
        declared = MessageType(
            name=name,
            version=version,
            kind=kind,
            destination=destination,
            key_field=key if isinstance(key, str) else None,
            key_function=None if isinstance(key, str) else key,
            python_type=cls,
            numbered=numbered,
        )
        setattr(cls, _ATTRIBUTE, declared)
        return cls

    return annotate


def _check_class(cls: type[object], *, name: str, kind: MessageKind, key: object) -> None:
    label = f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(cls.__dict__.get(_ATTRIBUTE), MessageType):
        msg = f"{label} is declared twice; one class is one message type"
        raise ConfigurationError(msg)
    if model_kind(cls) is None:
        msg = (
            f"{label} is no dataclass, msgspec.Struct or pydantic model; make it one, and put @{kind} above @dataclass"
        )
        raise ConfigurationError(msg)
    if isinstance(key, str):
        fields = field_names(cls)
        if key not in fields and not isinstance(getattr(cls, key, None), property):
            msg = f"message type {name!r}: key {key!r} is no field of {label}; it has: {', '.join(fields) or 'none'}"
            raise ConfigurationError(msg)
    elif key is not None and not callable(key):
        msg = f"message type {name!r}: key= takes the name of a field or a function of the message"
        raise ConfigurationError(msg)
