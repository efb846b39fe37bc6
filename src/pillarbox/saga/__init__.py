"""Sagas: long processes over many transactions and services, each step with what undoes it.

Guarantee: a saga ends completed, or compensated, or stops and needs attention, and says why; each step and its undoing
takes effect at most once where its key is honoured, whatever crashes. Undoing goes in the reverse order of completion.
Not promised: isolation. Others see what a saga has done so far; see ``locks`` and the countermeasures in the guide.
Source: Garcia-Molina and Salem, *Sagas*; Richardson, *Microservices Patterns*; the reading order is definition,
resolve, journal, happening, verbs, machine, store, locks, course, orchestrator, replies, participant, sagas.
"""

from pillarbox.saga.context import SagaContext
from pillarbox.saga.definition import RequestStep, Saga, Step, StepFailed
from pillarbox.saga.locks import LockHolder, ResourceLocked

__all__ = ["LockHolder", "RequestStep", "ResourceLocked", "Saga", "SagaContext", "Step", "StepFailed"]
