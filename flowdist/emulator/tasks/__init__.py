"""Task graphs: how they are defined, scheduled and run."""
