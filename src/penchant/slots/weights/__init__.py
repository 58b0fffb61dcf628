"""Weights of a group in the loss."""
