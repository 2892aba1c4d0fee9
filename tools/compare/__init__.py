"""``distilplace compare``: finished runs on one page."""
