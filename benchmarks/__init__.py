"""Benchmarks: ours, the peers and the naive way, interleaved in one run: ``python -m benchmarks [name]``.

Every run is a process of its own on a fresh database. Reading order: bench, catalogue, runner, measure, competitors.
"""
