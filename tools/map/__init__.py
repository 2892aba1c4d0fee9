"""``distilplace map``: build a map of places, look into it, search it."""
