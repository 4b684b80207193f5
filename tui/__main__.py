"""`python -m pgtattle.tui URL`: what `watch` and `demo` start on the terminal."""

from __future__ import annotations

import os
import sys

from pgtattle.proxy.errors import PgtattleError
from pgtattle.tui.app import run


def main() -> int:
    """Exit code of the dashboard; the token comes by PGTATTLE_TOKEN."""
    if len(sys.argv) != 2:
        print("usage: python -m pgtattle.tui URL", file=sys.stderr)
        return 2
    try:
        return run(sys.argv[1], os.environ.get("PGTATTLE_TOKEN", ""))
    except PgtattleError as error:
        print(f"pgtattle: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
