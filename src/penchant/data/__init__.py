"""Preference data: stored examples, readers for common layouts, checks, splits and images."""
