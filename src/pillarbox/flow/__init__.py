"""Flows: choreography that can be seen, and that says what did not come.

Guarantee: a flow that was seen to start and not to end is stuck, by the database's clock, and is told of once.
Not promised: that nothing is told of which comes late; nor a trace of what this service's broker does not carry.
Source: Richardson, *Choreography-based saga*; EIP, *Correlation Identifier*, *Message History*; the reading order is
definition, graph, reading, checks; record, tracker, store; lineage, policy, watch; trace, flows.
"""

from pillarbox.flow.checks import FlowProblem
from pillarbox.flow.definition import Flow, flow_of
from pillarbox.flow.flows import Flows
from pillarbox.flow.graph import Graph
from pillarbox.flow.participant import Participant, Passage
from pillarbox.flow.policy import Missing
from pillarbox.flow.record import SeenMessage
from pillarbox.flow.store import FlowInstances, FlowJournal, FlowParticipants, FlowPorts, FlowsState, StuckFlow
from pillarbox.flow.trace import Trace, TracedMessage

__all__ = [
    "Flow",
    "FlowInstances",
    "FlowJournal",
    "FlowParticipants",
    "FlowPorts",
    "FlowProblem",
    "Flows",
    "FlowsState",
    "Graph",
    "Missing",
    "Participant",
    "Passage",
    "SeenMessage",
    "StuckFlow",
    "Trace",
    "TracedMessage",
    "flow_of",
]
