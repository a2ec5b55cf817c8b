"""GGUF files without weights: what they say of their model."""

import struct


def gguf_bytes(**values: object) -> bytes:
    """A GGUF file without weights; keys with "__" for points."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value_of(value: object) -> bytes:
        if isinstance(value, bool):
            return struct.pack("<I?", 7, value)
        if isinstance(value, int):
            return struct.pack("<II", 4, value)
        if isinstance(value, float):
            return struct.pack("<If", 6, value)
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        kind, pack = (8, text) if isinstance(value[0], str) else (6, lambda number: struct.pack("<f", number))
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(map(pack, value))

    pairs = b"".join(text(key.replace("__", ".")) + value_of(value) for key, value in values.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + pairs
