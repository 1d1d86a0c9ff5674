"""Patterns by theme. Importing the modules fills `builder.PATTERNS`."""
