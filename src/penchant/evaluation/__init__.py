"""Evaluation: what a tuned model does better and worse than its base, with intervals and named flags."""
