"""Words of messages: on one line, and printable."""


def on_one_line(text: str) -> str:
    """Escape what cannot be printed or encoded: control characters, lone surrogates."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def brief(error: Exception) -> str:
    """Say on one line what an exception says, with its type."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".removesuffix(": ")
