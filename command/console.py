"""What commands say, and how."""

import re

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def visible(text: str) -> str:
    """A text in which control characters, lone surrogates and marks that reorder text stand as escapes such as \\x1b."""

    def shown(c: re.Match) -> str:
        return f"\\x{ord(c[0]):02x}" if ord(c[0]) < 256 else f"\\u{ord(c[0]):04x}"

    return _INVISIBLE.sub(shown, text)
