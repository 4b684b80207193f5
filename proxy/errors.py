"""The one tree of errors that people see: each message says what is wrong and what to do."""

from __future__ import annotations


class PgtattleError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(PgtattleError):
    """A flag, address, DSN, environment variable or file that cannot be used as it is."""

    exit_code = 2


class UpstreamNotGiven(UsageError):
    """Neither a flag nor the environment says where PostgreSQL is."""


class NoTerminal(UsageError):
    """There is no terminal to draw the dashboard on."""

    def __init__(self) -> None:
        super().__init__(
            "the dashboard needs a terminal as its stdin and stdout. Without one: pgtattle serve, whose API has"
            " the same data, or pgtattle run -- COMMAND"
        )


class FilterError(UsageError):
    """A filter that cannot be read; `column` (from 1) is where."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"{message} (column {column})")
        self.column = column


class UpstreamUnreachable(PgtattleError):
    """PostgreSQL did not accept a connection at the upstream address."""

    exit_code = 3


class AnalysisIncomplete(PgtattleError):
    """The report does not hold everything that passed through the proxy."""

    exit_code = 4


class ProtocolViolation(PgtattleError):
    """Bytes that cannot be PostgreSQL's protocol; the connection goes on, unobserved.

    `reason` is a short word for counters, such as `bad_length`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
