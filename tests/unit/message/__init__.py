"""Rules of ``pillarbox.message``."""
