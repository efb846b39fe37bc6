"""The command line: ``pillarbox``. It reads arguments, calls ``pillarbox.control``, and prints.

Guarantee: an error of the library's is one message on stderr and exit code 2; passwords are masked in all output.
Not promised: the wording of tables; programs read ``--json``.
Source: Control Bus (EIP) by hand; the reading order is main, places, output, then a command.
"""

from pillarbox.cli.main import commands, main

__all__ = ["commands", "main"]
