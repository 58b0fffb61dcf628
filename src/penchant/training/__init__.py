"""From a method and data to a trained policy: one loop, and what watches it."""
