"""What a box takes over from other modules: their handlers, and routes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, Unpack, overload

from pillarbox.app.orchestrating import Included, breaks_of
from pillarbox.app.running import Running
from pillarbox.consumer import Declaration, Declaring, Handlers, Options, Providers, RouteOptions, declaration_of
from pillarbox.errors import ConfigurationError, PillarboxError, RoutingLoopError, UnknownMessageTypeError
from pillarbox.message import Message, Registry
from pillarbox.message.headers import ROUTED_BY
from pillarbox.relational import RelationalStore
from pillarbox.routing import Explanation, Reader, Route, RoutedMessage
from pillarbox.saga import Saga
from pillarbox.saga.resolve import Definition
from pillarbox.saga.sagas import Sagas
from pillarbox.serialization import UNREADABLE, Codec, decode_message

S = TypeVar("S")
E = TypeVar("E")


class Including(Declaring):
    """The part of a box that collects declarations."""

    name: str
    store: RelationalStore
    registry: Registry
    codec: Codec
    sagas: Sagas
    _handlers: Handlers
    _included: list[Handlers]
    _sagas: Included
    _providers: Providers
    _runnings: list[Running]
    _stops: int

    def _declare(
        self, handler: Callable[..., object], types: tuple[type[Any], ...], batch: int | None, options: Options
    ) -> None:
        self._check_can_be_heard()
        on: Callable[..., Any] = self._handlers.on
        on(*types, batch=batch, **options)(handler)

    @overload
    def include(self, part: Handlers, /) -> None: ...
    @overload
    def include(self, part: Route, /, **options: Unpack[RouteOptions]) -> None: ...
    @overload
    def include(self, part: Saga[Any], /) -> None: ...
    @overload
    def include(
        self,
        part: Saga[S],
        /,
        *,
        started_by: type[E],
        state_from: Callable[[E], S],
        id_from: Callable[[E], str] | None = None,
    ) -> None: ...
    def include(
        self,
        part: Handlers | Route | Saga[Any],
        /,
        *,
        started_by: type[Any] | None = None,
        state_from: Callable[[Any], Any] | None = None,
        id_from: Callable[[Any], str] | None = None,
        **options: Unpack[RouteOptions],
    ) -> None:
        """Take over the handlers that a module has declared, a route, or a saga; twice is as good as once.

        Args:
            part: handlers; a router, recipient list, filter or tap; a saga.
            started_by: the message that starts a saga of this kind.
            state_from: makes the state that it begins with from that message.
            id_from: makes its id from that message; the message's key unless given.
            options: about the consumer that carries out a route, as in ``when_dead="skip"``.

        Raises:
            ConfigurationError: something was given that this kind of part does not take, or the box is running.
        """
        self._check_can_be_heard()
        if isinstance(part, Saga):
            is_half = (started_by is None) is not (state_from is None) or (started_by is None and id_from is not None)
            if options or is_half:
                raise ConfigurationError("include() takes started_by= and state_from=, both or none, with a saga")
            starter = None
            if started_by is not None and state_from is not None:
                starter = self.sagas.starter(part, started_by, state_from, id_from)
            self._sagas.add(part, starter)
        elif started_by is not None or state_from is not None or id_from is not None:
            raise ConfigurationError("include() takes started_by=, state_from= and id_from= with a saga alone")
        elif isinstance(part, Route):
            if part not in self.routes:
                routing = Handlers()
                routing.declarations.append(declaration_of(part, service=self.name, reader=self._reader, **options))
                self._included.append(routing)
        elif options:
            raise ConfigurationError(f"include() takes {', '.join(options)} with a route; handlers say it in on(...)")
        else:
            _check_handlers(part)
            if part not in self._included:
                self._included.append(part)

    def _check_can_be_heard(self) -> None:
        self._handlers.check_can_be_heard()

    def _begin(self, running: Running, *, stops: int) -> Running:
        """Note that ``running`` works with what has been declared; nothing more can be until it has ended.

        It ends at once if the box was told to stop more often than ``stops`` times, which it was before it opened.
        """
        for part in self._declared_parts:
            part.heard_by += 1
        self._runnings.append(running)
        if self._stops > stops:
            running.stop()
        return running

    @property
    def _declared_parts(self) -> Sequence[Handlers | Saga[Any]]:
        return [*self._included, *self._sagas.sagas]

    def _end(self, running: Running) -> None:
        """Note that what has begun has ended."""
        self._runnings.remove(running)
        for part in self._declared_parts:
            part.heard_by -= 1

    def saga_definitions(self) -> tuple[Definition, ...]:
        """Return the definitions of the sagas that were included, checked.

        Raises:
            InvalidSetupError: lists everything that is wrong with them.
        """
        return self._sagas.catalogue(self._providers, self.codec).definitions

    async def check_sagas(self, *, store: RelationalStore | None = None) -> tuple[ConfigurationError, ...]:
        """Return what the definitions of today cannot go on with, of this service's sagas that are under way.

        Args:
            store: where those are; the box's own store unless given.

        Raises:
            InvalidSetupError: lists everything that is wrong with the definitions.
        """
        catalogue = self._sagas.catalogue(self._providers, self.codec)
        return await breaks_of(catalogue, self.codec, store or self.store, self.name)

    @property
    def _declarations(self) -> tuple[Declaration, ...]:
        """Everything that was declared."""
        parts = (*self._included, *self._sagas.starters.values())
        return tuple(declaration for part in parts for declaration in part.declarations)

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
        return tuple(self._explained(route, view) for route in self.routes if route.takes(view.message))

    def _explained(self, route: Route, view: RoutedMessage) -> Explanation:
        """Explain what ``route`` decides, or why it is not asked."""
        found, by = route.explain(view), f"{self.name}/{route.name}"
        passed = view.headers.get(ROUTED_BY, "")
        reason: PillarboxError
        if view.type == UNREADABLE:
            reason = UnknownMessageTypeError(message_type=view.type, version=1)
        elif by in passed.split():
            reason = RoutingLoopError(router=by, path=passed)
        else:
            return found
        rules = tuple(replace(rule, decides=False) for rule in found.rules)
        return replace(found, rules=rules, outcome="dead", destinations=(), reason=str(reason))

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


def _check_handlers(part: object) -> None:
    if not isinstance(part, Handlers):
        raise ConfigurationError(
            f"include() takes handlers, a route or a saga, got {part!r:.200}; of a module, name what stands in it, "
            "as in include(stock.handlers)"
        )
