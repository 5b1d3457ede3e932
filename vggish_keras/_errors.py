"""One-line error messages."""


def error_message(error: BaseException) -> str:
    """The error's message on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
