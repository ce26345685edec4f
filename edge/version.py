"""The version of Edgetrace."""

__version__ = "0.2.0"
