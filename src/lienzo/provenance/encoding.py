"""Base64 in its one proper spelling, for all that strangers may have written."""

import base64


def encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode64(text: str) -> bytes:
    """Base64 (RFC 4648, section 4) in its one proper spelling.

    Raises:
        ValueError: anything else.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:  # also where it is not ASCII
        raise ValueError(f"not base64 ({error})") from None
    if encode64(data) != text:
        raise ValueError("not base64 in its proper spelling")
    return data
