"""What a running profiler knows of its server, as checks.

Enters: whether the server answers, and the side connection's state. Leaves: the basic checks. No I/O.
"""

from __future__ import annotations

from typing import Final

from pgtattle.proxy.checks import EXPLAIN, HYPOPG, UPSTREAM, Check, CheckState, places
from pgtattle.proxy.schema import ExplainState, ExplainView
from pgtattle.proxy.settings import Upstream

_EXPLAIN_STATES: Final[dict[ExplainState, CheckState]] = {
    "unknown": "unknown",
    "ok": "ok",
    "off": "warn",
    "no_rights": "warn",
    "no_password": "failed",
    "refused": "failed",
    "unreachable": "failed",
}


def of_server(upstream: Upstream, failure: str | None, version: str, explain: ExplainView) -> list[Check]:
    """What a profiler knows of its server.

    `failure` is why it does not answer, empty where it does, None where that is not known yet; `version` is the
    server's, empty where nobody could log in.
    """
    where = places(upstream)
    if failure is None:
        first = Check(name=UPSTREAM, state="unknown", words=f"no answer from {where} yet")
    elif failure:
        first = Check(name=UPSTREAM, state="failed", words=failure, cure="start PostgreSQL, or correct --upstream")
    elif version:
        words = f"PostgreSQL {version} at {where}, user {upstream.user}, database {upstream.database}"
        first = Check(name=UPSTREAM, state="ok", words=words)
    else:
        first = Check(name=UPSTREAM, state="ok", words=f"PostgreSQL answers at {where}")
    if failure and explain.state == "unreachable":
        second = Check(name=EXPLAIN, state="failed", words="needs a server that answers")
    else:
        second = _explain(explain)
    return [first, second, _hypopg(explain, version.partition(".")[0])]


def _explain(explain: ExplainView) -> Check:
    words = explain.reason or ("available" if explain.state == "ok" else "not known yet")
    return Check(name=EXPLAIN, state=_EXPLAIN_STATES[explain.state], words=words, cure=explain.cure)


def _hypopg(explain: ExplainView, major: str) -> Check:
    if explain.hypopg:
        return Check(name=HYPOPG, state="ok", words="installed")
    if explain.state in ("ok", "no_rights"):
        words = "not installed in this database: a suggested index is not tried"
        cure = f"CREATE EXTENSION hypopg;  (the server needs the package postgresql-{major}-hypopg)"
        return Check(name=HYPOPG, state="warn", words=words, cure=cure)
    return Check(name=HYPOPG, state="unknown", words="not known without EXPLAIN")
