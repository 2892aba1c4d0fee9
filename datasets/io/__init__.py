"""File formats: clouds, images, tables, pickles."""
