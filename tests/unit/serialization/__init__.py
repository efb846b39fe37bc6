"""Rules of ``pillarbox.serialization``."""
