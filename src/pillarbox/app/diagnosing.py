"""From a store to the doctor who knows its kind of database."""

from __future__ import annotations

from pillarbox.control.diagnosis import Diagnosable, DiagnosisLimits, Doctor
from pillarbox.errors import ConfigurationError
from pillarbox.relational import RelationalStore


def doctor_of(store: RelationalStore, limits: DiagnosisLimits) -> Doctor:
    """Return the doctor of a box on ``store``; connects to nothing.

    Raises:
        ConfigurationError: nobody knows that kind of database.
    """
    return Doctor([_of_database(store, limits)])  # a broker that is Diagnosable joins here


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
