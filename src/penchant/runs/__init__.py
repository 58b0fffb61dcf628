"""From a run file to objects, and from objects to a folder on disk."""
