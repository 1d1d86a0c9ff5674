"""Traps by theme. Importing the modules fills `book.TRAPS`."""
