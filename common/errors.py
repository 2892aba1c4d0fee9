"""The one exception for a user's mistake: shown as a single line, exit code 2, never a traceback."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
