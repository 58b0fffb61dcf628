"""Preference objectives over the candidates of a group."""
