"""``distilplace localise`` and ``distilplace calibrate``: where was this picture taken, and how sure is that?"""
