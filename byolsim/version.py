"""The version of the program, of what it writes, and of what it computes."""

__version__ = "0.1.0"

SCHEMA_VERSION = 1
"""Version of the Parquet columns and metadata."""

NUMERICS_VERSION = 3
"""Raised whenever the same configuration would give other numbers than before."""
