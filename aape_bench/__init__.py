"""aape-bench: evaluate audio encoders with honest splits, intervals and records."""

__version__ = "0.1.0"
