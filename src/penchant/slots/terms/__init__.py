"""Losses that are added to the objective."""
