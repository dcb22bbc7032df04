"""``python -m hil``: the command, for where its script is not on the path."""

from __future__ import annotations

import sys

from hil.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
