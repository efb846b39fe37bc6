"""A router that looks into messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, cast

from pillarbox.channel import address_of
from pillarbox.errors import ConfigurationError, UnmatchedMessageError, UnreachableRuleError
from pillarbox.routing.conditions import ConditionLike, condition_of, shown
from pillarbox.routing.reach import implies, is_always, is_never
from pillarbox.routing.route import Decision, Route, Rule, RuleExplanation, Source
from pillarbox.routing.view import RoutedMessage

Match: TypeAlias = Literal["first", "all"]


class ContentBasedRouter(Route):
    """Forwards each message to the channel of the first rule that matches, or of all that do.

    A message that no rule matches goes to the default channel; without one it is a dead letter of the router, as is one
    whose condition fails. The copies are written in the transaction that notes the message as handled, so they leave
    once in effect and in the order of their key.

    EIP: *Content-Based Router*.
    """

    def __init__(
        self, name: str, *, source: Source | None = None, default: str | None = None, match: Match = "first"
    ) -> None:
        """Name the router; add rules by ``when`` or ``with_rules``.

        Args:
            name: its durable name within the service.
            source: the channels it takes messages from, or the classes of messages; left out: the queue of its name.
            default: the channel for what no rule matches; ``express`` is short for ``queue:express``.
            match: whether the ``first`` rule that matches decides, or ``all`` of them.

        Raises:
            ConfigurationError: a name is not valid.
        """
        super().__init__(name, source=source)
        if match not in ("first", "all"):
            raise ConfigurationError(f"{name}: match= is 'first' or 'all', not {match!r}")
        self._match = match
        self._default = None if default is None else address_of(default)
        self._rules: list[Rule] = []

    def when(self, condition: ConditionLike, /, *, to: str, name: str | None = None) -> ContentBasedRouter:
        """Add a rule, behind those there are, and return the router.

        Args:
            condition: data such as ``{"field": "body.priority", "operator": "eq", "value": "EXPRESS"}``, or a function
                of the message that returns True or False.
            to: the channel for what it holds for.
            name: what errors and explanations call the rule.

        Raises:
            ConfigurationError: the condition or the channel is not as it should be.
        """
        called = name or f"rule-{len(self._rules) + 1}"
        if any(rule.name == called for rule in self._rules):
            raise ConfigurationError(f"{self.name}: there are two rules {called!r}; give one another name")
        try:
            rule = Rule(name=called, condition=condition_of(condition), to=address_of(to))
        except ConfigurationError as error:
            raise ConfigurationError(f"rule {called!r} of {self.name!r}: {error}") from error
        self._rules.append(rule)
        return self

    def with_rules(self, rules: Iterable[Mapping[str, Any]], /) -> ContentBasedRouter:
        """Add rules out of configuration, each ``{"when": …, "to": …, "name": …}``, and return the router.

        Raises:
            ConfigurationError: a rule is not as it should be.
        """
        for said in rules:
            match said:
                case {"when": Mapping(), "to": str() as to, **rest} if _is_named(rest):
                    self.when(cast("Mapping[str, Any]", said["when"]), to=to, name=rest.get("name"))
                case _:
                    raise ConfigurationError(
                        f"{self.name}: {shown(said)} is no rule; write 'when', 'to', and 'name' if you like"
                    )
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The channels of the rules, and the default."""
        default = () if self._default is None else (self._default,)
        return tuple(dict.fromkeys([*(rule.to for rule in self._rules), *default]))

    def decide(self, message: RoutedMessage, /) -> Decision:
        """Ask the rules in order."""
        found: list[str] = []
        for rule in self._rules:
            if rule.applies(message, route=self.name):
                found.append(rule.to)
                if self._match == "first":
                    break
        if found:
            return Decision(destinations=tuple(dict.fromkeys(found)))
        if self._default is None:
            raise UnmatchedMessageError(router=self.name)
        return Decision(destinations=(self._default,), by_default=True)

    def rules_for(self, message: RoutedMessage, /) -> tuple[RuleExplanation, ...]:
        """Explain each rule; behind the first that matches none decides, where the first does."""
        told: list[RuleExplanation] = []
        open_ = True
        for rule in self._rules:
            told.append(rule.explained(message, decides=open_))
            if self._match == "first" and told[-1].matched is not False:
                open_ = False
        if self._match == "all" and any(rule.matched is None for rule in told):
            return tuple(rule.explained(message, decides=False) for rule in self._rules)
        return tuple(told)

    def problems(self) -> list[ConfigurationError]:
        """Add the rules that can never decide."""
        found = super().problems()
        if not self._rules and self._default is None:
            found.append(ConfigurationError(f"{self.name}: it has no rules and no default; add rules by when()"))
        for place, rule in enumerate(self._rules):
            reason = self._never_reached(rule, self._rules[:place])
            if reason is not None:
                found.append(UnreachableRuleError(router=self.name, rule=rule.name, reason=reason))
        return found

    def _never_reached(self, rule: Rule, earlier: list[Rule]) -> str | None:
        if is_never(rule.condition):
            return "its condition contradicts itself"
        for other in earlier:
            decides_before = self._match == "first" or other.to == rule.to
            if decides_before and is_always(other.condition):
                return f"rule {other.name!r} before it always holds"
            if decides_before and implies(rule.condition, other.condition):
                return f"rule {other.name!r} before it holds for the same messages"
        return None


def _is_named(rest: Mapping[str, Any]) -> bool:
    return not rest or (set(rest) == {"name"} and isinstance(rest["name"], str))
