"""What errors say."""


def error_message(error: BaseException) -> str:
    """The message of an error in a line; of one without a message, its type."""
    return " ".join(str(error).split()) or type(error).__name__
