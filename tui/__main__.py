"""`python -m pgtattle.tui URL [--token-file FILE]`: what `watch` and `demo` start on the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pgtattle.proxy.errors import PgtattleError, UsageError
from pgtattle.tui.app import run


def main() -> int:
    """Exit code of the dashboard."""
    parser = argparse.ArgumentParser(prog="python -m pgtattle.tui", description="Attach to a running pgtattle.")
    parser.add_argument("url", help="http://HOST:PORT or unix:/path of its API")
    parser.add_argument("--token-file", type=Path, help="the token that the API asks for")
    parser.add_argument("--owns-session", action="store_true", help="the session ends with it: ask before leaving")
    options = parser.parse_args()
    try:
        return run(options.url, _token(options.token_file), owns_session=options.owns_session)
    except PgtattleError as error:
        print(f"pgtattle: {error}", file=sys.stderr)
        return error.exit_code


def _token(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() if path is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token-file {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
