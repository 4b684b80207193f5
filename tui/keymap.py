"""The keys, in one place: the widgets bind them, and the help and the footer are made from them.

Out of scope: what the actions do (`app`, `widgets.rows`).
"""

from __future__ import annotations

from typing import Final

from textual.binding import Binding, BindingType

DASHBOARD: Final[list[BindingType]] = [
    Binding("1", "show('live')", "Live", show=False),
    Binding("2", "show('statements')", "Statements", show=False),
    Binding("3", "show('findings')", "Findings", show=False),
    Binding("space", "pause", "Pause", tooltip="Pause Live; what comes meanwhile is counted"),
    Binding("f,slash", "filter", "Filter", tooltip="Filter Live; the server filters"),
    Binding("s", "sort", "Sort", tooltip="Sort Statements by the next column", show=False),
    Binding("c", "copy_sql", "Copy SQL", tooltip="Copy the SQL as it came"),
    Binding("y", "copy_suggestion", "Copy fix", tooltip="Copy the suggested SQL of a finding"),
    Binding("escape", "back", "Back", show=False),
    Binding("left_square_bracket", "scroll_detail(-1)", "Detail up", show=False),
    Binding("right_square_bracket", "scroll_detail(1)", "Detail down", show=False),
    Binding("question_mark", "help", "Help"),
    Binding("q,ctrl+c", "quit", "Quit"),
]
ROWS: Final[list[BindingType]] = [
    Binding("enter", "open", "Detail", tooltip="Detail of the row; Live stays on it"),
    Binding("up,k", "move(-1)", "Up", show=False),
    Binding("down,j", "move(1)", "Down", show=False),
    Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False),
    Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False),
    Binding("home,g", "top", "First row", show=False),
    Binding("end,G", "bottom", "Last row", tooltip="Last row; Live follows the newest again", show=False),
]
FILTER_LINE: Final[list[BindingType]] = [
    Binding("enter", "submit", "Use it"),
    Binding("escape", "app.back", "Cancel"),
]
HELP: Final[list[BindingType]] = [
    Binding("escape,q,question_mark", "dismiss", "Close"),
    Binding("up,k", "scroll(-1)", "Up", show=False),
    Binding("down,j", "scroll(1)", "Down", show=False),
]
LEAVE: Final[list[BindingType]] = [
    Binding("y,ctrl+c", "answer(True)", "Leave"),
    Binding("n,escape,q", "answer(False)", "Stay"),
]

FILTERS: Final = (
    ("dur>100ms", "slower than"),
    ("rows>1000", "more rows than"),
    ("op:select table:users", "command, table"),
    ("app:web user:bob db:shop", "who and where"),
    ("err err:23505", "failed; with this SQLSTATE"),
    ("fp:1a2b conn:12", "statement, connection"),
    ('"some text" -op:select', "text of the SQL; and not"),
)

_NAMES: Final = {
    "question_mark": "?",
    "slash": "/",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "escape": "esc",
    "pageup": "page up",
    "pagedown": "page down",
}


def described() -> list[tuple[str, str]]:
    """All keys of the lists and the dashboard, each with what it does."""
    return [
        (", ".join(_NAMES.get(key, key) for key in one.key.split(",")), one.tooltip or one.description)
        for one in (*DASHBOARD, *ROWS)
        if isinstance(one, Binding)
    ]
