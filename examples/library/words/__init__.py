"""A small library with a function that is slower than it need be."""


def counts(text: str) -> dict[str, int]:
    """How often each word stands in `text`."""
    words = text.lower().split()
    return {word: words.count(word) for word in words}
