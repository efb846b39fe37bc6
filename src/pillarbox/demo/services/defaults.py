"""What the handlers of all five services have in common."""

from datetime import timedelta

from sqlalchemy import MetaData

from pillarbox import Retry

RETRY = Retry(attempts=5, first=timedelta(milliseconds=100), longest=timedelta(seconds=1))
"""Short waits, since somebody watches the demo; a service would give its neighbours minutes."""

metadata = MetaData()
"""The tables of the five services; they share one database here, and none reads another's."""
