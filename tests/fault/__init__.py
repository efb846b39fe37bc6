"""Real processes killed, frozen and fed duplicates; each history is judged by ``tests.history``.

Guarantee: every fault is drawn from a printed seed, and each test waits for conditions, never for time.
Not promised: the same schedule twice; a seed replays the dice, not the machine.
"""
