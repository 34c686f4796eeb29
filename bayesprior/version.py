"""The version, alone in a file so that building reads it without importing torch."""

__all__ = ["__version__"]

__version__ = "0.1.0"
