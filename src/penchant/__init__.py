"""Penchant: preference alignment for generative models."""

__version__ = "0.1.0"
