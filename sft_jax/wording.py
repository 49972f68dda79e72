"""Words of messages."""


def plural(noun: str, count: int) -> str:
    """Returns the form of a regular noun that follows a count."""
    return noun if count == 1 else f"{noun}s"
