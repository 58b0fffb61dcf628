"""Estimates of the log-ratio of policy to reference."""
