"""A graph as Mermaid text."""

from __future__ import annotations

from collections.abc import Sequence

from pillarbox.flow.participant import Participant, Passage, passages_of

QUOTES = str.maketrans({'"': "#quot;", "<": "#lt;", ">": "#gt;", "\n": " "})


def mermaid_of(participants: Sequence[Participant], *, starts: Sequence[str], ends: Sequence[str]) -> str:
    """Return ``participants`` as a flowchart; the events at which flows start and end are marked."""
    passages = {passage: f"m{number}" for number, passage in enumerate(passages_of(participants), start=1)}
    types = [passage.type for passage in passages]
    several = frozenset(kind for kind in types if types.count(kind) > 1)
    lines = ["flowchart LR"]
    lines += [f"    {node}{_shape(passage, several)}" for passage, node in passages.items()]
    for number, one in enumerate(participants, start=1):
        node = f"c{number}"
        lines.append(f'    {node}["{_text(one.consumer)}"]')
        lines += [f"    {passages[heard]} --> {node}" for heard in one.hears]
        arrow = "-.->" if one.may_be_silent else "-->"
        lines += [f"    {node} {arrow} {passages[each]}" for each in one.publishes]
        if one.is_open:
            lines.append(f"    {node} -.-> {node}o((?))")
    lines += _marked(passages, starts, "starts", "stroke-width:3px")
    lines += _marked(passages, ends, "ends", "stroke-width:3px,stroke-dasharray:4")
    return "\n".join(lines) + "\n"


def _shape(passage: Passage, several: frozenset[str]) -> str:
    """Return the node of ``passage``; a type that passes by ``several`` channels is named with its channel."""
    label = f"{passage.type} on {passage.channel}" if passage.type in several else passage.type
    text = f'"{_text(label)}"'
    return f"([{text}])" if passage.is_event else f"[/{text}/]"


def _marked(passages: dict[Passage, str], kinds: Sequence[str], name: str, style: str) -> list[str]:
    nodes = [node for passage, node in passages.items() if passage.type in kinds and passage.is_event]
    return [f"    classDef {name} {style}", f"    class {','.join(nodes)} {name}"] if nodes else []


def _text(label: str) -> str:
    return label.translate(QUOTES)
