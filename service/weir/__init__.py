"""Weir: an online-learning service that cannot be poisoned irreparably."""

__version__ = "0.1.0"
