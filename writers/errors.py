"""The one error that a person can put right: shown as one or two red lines, exit code 2, never a traceback."""


class UserError(Exception):
    """What is wrong, where, and how to put it right, in words for the person at the terminal.

    `hint` is a second line: the cure, or the near names.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
