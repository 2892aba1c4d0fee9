"""Teachers of a student run: where their outputs come from, how they are opened."""
