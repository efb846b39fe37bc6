"""Rules that hold for whatever Hypothesis comes up with."""
