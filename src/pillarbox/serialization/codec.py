"""The port of serialization: what turns messages into bytes and back."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, TypeVar

T = TypeVar("T")


class Codec(Protocol):
    """Encodes declared classes, and decodes only into the class it is told: a body cannot choose what it becomes.

    Bodies are data from outside. Whatever they hold, decoding raises nothing but ``DecodeError``.
    """

    @abstractmethod
    def content_type(self) -> str:
        """Return the media type that this codec writes and reads, without parameters."""

    @abstractmethod
    def prepare(self, python_type: type[object]) -> None:
        """Do once what every message of ``python_type`` needs; start-up calls it to find faults early.

        Raises:
            ConfigurationError: A field has a type that this codec cannot carry.
        """

    @abstractmethod
    def encode(self, message: object) -> bytes:
        """Return ``message`` as bytes that decode to an equal one.

        Raises:
            InvalidMessageError: A value cannot be carried without loss; the reason names the path to it.
            ConfigurationError: A field has a type that this codec cannot carry.
        """

    @abstractmethod
    def decode(self, body: bytes, python_type: type[T]) -> T:
        """Return ``body`` as ``python_type``; fields that the type does not know are passed over.

        Raises:
            DecodeError: The body is too large, malformed, or does not fit the type.
            ConfigurationError: A field has a type that this codec cannot carry.
        """

    @abstractmethod
    def decode_untyped(self, body: bytes) -> object:
        """Return ``body`` as dicts, lists, texts and numbers.

        Raises:
            DecodeError: The body is too large, malformed, or nested too deeply.
        """

    @abstractmethod
    def convert(self, builtins: object, python_type: type[T]) -> T:
        """Return what ``decode_untyped`` gave, or an upcaster made of it, as ``python_type``.

        Raises:
            DecodeError: It does not fit the type.
            ConfigurationError: A field has a type that this codec cannot carry.
        """
