"""`python -m pgtattle.tui.screenshot URL -o FILE.svg`: the dashboard of a running pgtattle as a picture."""

from __future__ import annotations

import argparse
import asyncio
import re
from pathlib import Path

from pgtattle.tui.app import Dashboard
from pgtattle.tui.client import Client


async def shoot(url: str, output: Path, seconds: float) -> None:
    """Attach, wait, open the gravest finding, and save what is on the screen."""
    app = Dashboard(Client(url))
    async with app.run_test(size=(120, 36)) as pilot:
        await asyncio.sleep(seconds)
        if app.trouble:
            raise SystemExit(f"no picture: {app.trouble}")
        await pilot.press("3")
        await asyncio.sleep(0.5)
        await pilot.press("g", "enter")
        await asyncio.sleep(0.5)
        # Without the fonts that the picture would fetch from elsewhere.
        picture = re.sub(r"@font-face\s*{[^}]*}", "", app.export_screenshot(title="pgtattle"))
        output.write_text(picture, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/tui.svg"))
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    asyncio.run(shoot(options.url, options.output, options.seconds))


if __name__ == "__main__":
    main()
