"""The error for problems that a user can fix. It is shown as one or two red lines (exit code 2)."""


class UserError(Exception):
    """A problem, its place, and how to fix it.

    `hint` is a second line: how to fix it, or similar names.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message
