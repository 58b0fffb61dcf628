"""From a method and data to a trained policy: one loop, and callbacks that watch it."""
