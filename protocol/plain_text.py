"""Other people's words on a terminal."""


def printable(text: str) -> str:
    r"""Return a text without anything that a terminal would act on instead of showing it.

    A study's words come from its coordinator, some refusals from the other end: an escape sequence in them could move
    the cursor and write over what an officer is about to approve, a new line could forge the next line of a log.

    Args:
        text: Any text.

    Example:
        >>> printable("safe\x1b[2J\u202eelbat")
        'safe�[2J�elbat'
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
