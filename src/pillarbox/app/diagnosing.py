"""From a store and a broker to the doctors who know their kinds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from pillarbox.channel import Broker
from pillarbox.control.diagnosis import Diagnosable, DiagnosisLimits, Doctor, SharedWithOthers
from pillarbox.errors import ConfigurationError
from pillarbox.relational import RelationalStore


def doctor_of(
    store: RelationalStore, limits: DiagnosisLimits, broker: Broker | None = None, *, channels: Iterable[str] = ()
) -> Doctor:
    """Return the doctor of a box on ``store``, and of its ``broker`` where that can say something; connects to nothing.

    Args:
        channels: the box's; a broker that has those of others, too, judges these and no others.

    Raises:
        ConfigurationError: nobody knows that kind of database.
    """
    patients = [_of_database(store, limits)]
    if SharedWithOthers in type(broker).__mro__:
        cast("SharedWithOthers", broker).look_at(channels)
    if Diagnosable in type(broker).__mro__:
        patients.append(cast("Diagnosable", broker))
    return Doctor(patients)


def _of_database(store: RelationalStore, limits: DiagnosisLimits) -> Diagnosable:
    match store.engine.dialect.name:
        case "postgresql":
            from pillarbox.stores.postgresql.diagnosis import PostgresDiagnosis

            return PostgresDiagnosis(store, limits)
        case "sqlite":
            from pillarbox.stores.sqlite.diagnosis import SqliteDiagnosis

            return SqliteDiagnosis(store)
        case "mysql" | "mariadb":
            from pillarbox.stores.mysql.diagnosis import MysqlDiagnosis

            return MysqlDiagnosis(store)
        case kind:
            raise ConfigurationError(f"nobody here knows what to look at in {kind}")
