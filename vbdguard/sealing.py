"""JSON texts under a checksum: what stands in a cache is believed only under its own name and as it was written."""

from __future__ import annotations

from blake3 import blake3


def seal(name: str, body: str) -> str:
    """Return the JSON text of an object with a body and the checksum of the body's text and its name.

    The checksum is of the text as it stands: whoever checks it need not write the body anew, which takes longer than
    to read it.

    Args:
        name: what the body is believed under, ASCII.
        body: JSON in ASCII.
    """
    return f'{{"checksum": "{blake3(f"{name} {body}".encode("ascii")).hexdigest()}", "body": {body}}}'


def unseal(name: str, sealed: str) -> str:
    """Return the body's text.

    Raises:
        ValueError: if `seal` has not made it so, under this name.
    """
    body = sealed.partition(', "body": ')[2][:-1]
    if sealed != seal(name, body):
        raise ValueError("the checksum does not match")
    return body
