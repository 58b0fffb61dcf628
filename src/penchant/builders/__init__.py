"""Builders: make preference data, or judge it anew."""
