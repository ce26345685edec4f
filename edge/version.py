"""The version of Edgetrace."""

__version__ = "0.3.0"
