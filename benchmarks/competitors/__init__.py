"""The competitors: each module prepares its own tables, does its task once, and prints one line of figures."""
