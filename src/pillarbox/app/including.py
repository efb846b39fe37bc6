"""What a box takes over from other modules: their handlers, and routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack, overload

from pillarbox.consumer import Declaration, Declaring, Handlers, Options, RouteOptions, declaration_of
from pillarbox.errors import ConfigurationError
from pillarbox.message import Message, Registry
from pillarbox.routing import Explanation, Reader, Route
from pillarbox.serialization import Codec, decode_message


class Including(Declaring):
    """The part of a box that collects declarations."""

    name: str
    registry: Registry
    codec: Codec
    _handlers: Handlers
    _included: list[Handlers]

    def _declare(
        self, handler: Callable[..., object], types: tuple[type[Any], ...], batch: int | None, options: Options
    ) -> None:
        on: Callable[..., Any] = self._handlers.on
        on(*types, batch=batch, **options)(handler)

    @overload
    def include(self, part: Handlers, /) -> None: ...
    @overload
    def include(self, part: Route, /, **options: Unpack[RouteOptions]) -> None: ...
    def include(self, part: Handlers | Route, /, **options: Unpack[RouteOptions]) -> None:
        """Take over the handlers that a module has declared, or a route; twice is as good as once.

        Args:
            part: handlers, or a router, recipient list, filter or tap.
            options: about the consumer that carries out a route, as in ``when_dead="skip"``.

        Raises:
            ConfigurationError: options were given with handlers, which have their own.
        """
        if isinstance(part, Route):
            if part not in self.routes:
                routing = Handlers()
                routing.declarations.append(declaration_of(part, service=self.name, reader=self._reader, **options))
                self._included.append(routing)
        elif options:
            raise ConfigurationError(f"include() takes {', '.join(options)} with a route; handlers say it in on(...)")
        elif part not in self._included:
            self._included.append(part)

    @property
    def _declarations(self) -> tuple[Declaration, ...]:
        """Everything that was declared."""
        return tuple(declaration for part in self._included for declaration in part.declarations)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes that were included."""
        return tuple(declaration.route for declaration in self._declarations if declaration.route is not None)

    def explain(self, message: object, /) -> tuple[Explanation, ...]:
        """Explain what each route that takes ``message`` from its channel would do with it; nothing is sent.

        Args:
            message: a message, or an object of a declared class, as it would be published.

        Raises:
            ConfigurationError: it is no message.
        """
        self._register_declared()
        view = self._reader.view(message)
        return tuple(route.explain(view) for route in self.routes if route.takes(view.message))

    def check_body(self, message: Message, /) -> object:
        """Decode ``message`` as its consumers would, and return what they would be given.

        A type that this box does not know is not decoded: its body may be anything.

        Raises:
            DecodeError: its body does not fit its type.
        """
        self._register_declared()
        if all(message.type != known.name for known in self.registry.types()):
            return message
        return decode_message(message, self.registry, self.codec)

    def _register_declared(self) -> None:
        for declaration in self._declarations:
            self.registry.register(*declaration.types)

    @property
    def _reader(self) -> Reader:
        return Reader(self.registry, self.codec)
