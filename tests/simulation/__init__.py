"""The library's own loops taken statement by statement: every interleaving of two, every crash point of one.

Guarantee: the code under test is the real one, on a real database; only who goes next, and who ends, is decided here.
Not promised: interleavings within a statement; the database answers for those.
"""
