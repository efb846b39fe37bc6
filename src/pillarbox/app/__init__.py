"""The box: stores, brokers and patterns put together.

Guarantee: constructing one connects to nothing and registers nothing globally.
Not promised: that two boxes share anything but their database and broker.
Source: Seemann, *Composition Root*; the reading order is pillarbox, settings, publishing, including,
assembly, running, places.
"""

from pillarbox.app.pillarbox import Pillarbox
from pillarbox.app.settings import Settings
from pillarbox.app.system_clock import SystemClock

__all__ = ["Pillarbox", "Settings", "SystemClock"]
