"""Ways to damage a file."""

import os
from pathlib import Path

WAYS = ("delete", "truncate", "flip")


def harm(path: Path, how: str) -> None:
    """Delete a file, cut it in half, or turn one bit of it."""
    if how == "delete":
        path.unlink()
    elif how == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        if content:
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
