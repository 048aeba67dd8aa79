"""Measurements and proofs; their results are in ``docs/results/``."""
