"""PostgreSQL's own programs: psql, pg_dump with pg_restore, pgbench. What they print is the outcome."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.compat.outcomes import Outcomes
from tests.compat.server import Server
from tests.compat.workshop import Unavailable, Workshop

SCRIPTS: Final = Path(__file__).with_name("scripts")
LONGEST_SECONDS: Final = 120


class Failure(Exception):
    """A program ended with an exit code that was not expected."""


@dataclass(frozen=True)
class Programs:
    """Runs one of PostgreSQL's programs against a server."""

    server: Server
    folder: Path

    def __call__(
        self, program: str, *arguments: str, database: str = "postgres", script: str = "", fine: Sequence[int] = (0,)
    ) -> str:
        """What it printed, on both streams; raises Failure when its exit code is not among the fine ones."""
        environment = self.server.environment(database)
        done = subprocess.run(
            [str(self.server.programs / program), *arguments],
            cwd=self.folder,
            env={**environment, "LC_ALL": "C.UTF-8", "PATH": f"{self.server.programs}:{environment['PATH']}"},
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=LONGEST_SECONDS,
        )
        with (self.folder / "output.txt").open("a", errors="backslashreplace") as log:
            log.write(f"$ {program} {' '.join(arguments)}\n{done.stdout}\n")
        if done.returncode not in fine:
            raise Failure(f"{program} ended with {done.returncode}: {done.stdout[-300:]}")
        return done.stdout

    def psql(self, script: str, database: str = "postgres") -> str:
        return self("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", database=database, script=script)


Check = Callable[[Programs], str]
"""Gives what must be the same both ways."""


@dataclass(frozen=True)
class ProgramSuite:
    """Checks by name, each with what it must print the same both ways."""

    name: str
    set_up: Callable[[Programs], object]
    checks: Callable[[Programs], dict[str, Check]]

    def prepare(self, workshop: Workshop, server_version: int) -> str:
        return f"PostgreSQL {server_version}"

    def run(self, server: Server, folder: Path, only: Collection[str]) -> Outcomes:
        programs = Programs(server, folder)
        if not (server.programs / "psql").exists():
            raise Unavailable(f"there is no psql in {server.programs}")
        self.set_up(programs)
        checks = self.checks(programs)
        return {name: _outcome(check, programs) for name, check in checks.items() if not only or name in only}


def _outcome(check: Check, programs: Programs) -> str:
    try:
        printed = check(programs)
    except (Failure, subprocess.TimeoutExpired) as error:
        return f"failed {error}"
    return f"passed {hashlib.sha256(printed.encode(errors='backslashreplace')).hexdigest()[:16]}"


# -- psql -------------------------------------------------------------------------------------------------------------


def _sections(programs: Programs) -> dict[str, Check]:
    """One session runs the whole script, which says where a section begins; at last the server ends it: exit code 2."""
    script = (SCRIPTS / "psql.sql").read_text(encoding="utf-8")
    printed = programs("psql", "-X", "-v", "VERBOSITY=verbose", script=script, fine=(0, 2))
    printed = re.sub(r"process with PID \d+", "process with PID …", printed)
    _, *rest = re.split(r"^=== (.+)\n", printed, flags=re.MULTILINE)
    told = dict(zip(rest[::2], rest[1::2], strict=True))
    named = re.findall(r"^\\echo === (.+)$", script, flags=re.MULTILINE)

    def check(name: str) -> Check:
        def of_session(programs: Programs) -> str:
            if name not in told:
                raise Failure("the session ended before")
            return told[name]

        return of_session

    return {name: check(name) for name in named}


# -- pg_dump and pg_restore -------------------------------------------------------------------------------------------

DUMPS: Final[dict[str, Sequence[str]]] = {
    "plain": ["-Fp"],
    "plain, inserts": ["-Fp", "--inserts", "--rows-per-insert=50"],
    "tar": ["-Ft"],
    "custom": ["-Fc"],
    "directory, two jobs": ["-Fd", "-j2"],
    "schema only": ["-Fp", "--schema-only"],
}


def _create_source(programs: Programs) -> None:
    programs("createdb", "source")
    programs.psql((SCRIPTS / "source.sql").read_text(encoding="utf-8"), database="source")


def _content(programs: Programs, database: str, *arguments: str) -> str:
    """A database as SQL, without the key that pg_dump draws at random."""
    lines = programs("pg_dump", *arguments, "-d", database).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def _round_trip(name: str, arguments: Sequence[str]) -> Check:
    def check(programs: Programs) -> str:
        database = "restored_" + re.sub(r"\W+", "_", name)
        dump = str(programs.folder / f"{database}.dump")
        programs("pg_dump", *arguments, "-f", dump, "-d", "source")
        programs("createdb", "-T", "template0", database)
        if "-Fp" in arguments:
            programs("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump, database=database)
        else:
            jobs = [] if "-Ft" in arguments else ["-j2"]
            programs("pg_restore", "--exit-on-error", *jobs, "-d", database, dump)
        only = ["--schema-only"] if "--schema-only" in arguments else []
        restored, source = _content(programs, database, *only), _content(programs, "source", *only)
        if restored != source:
            raise Failure("what was restored is not what was dumped")
        return restored

    return check


def _pipe(programs: Programs) -> str:
    programs("createdb", "-T", "template0", "piped")
    bin_ = programs.server.programs
    pipe = f"'{bin_}/pg_dump' -Fc source | '{bin_}/pg_restore' --exit-on-error -d piped"
    done = subprocess.run(
        ["sh", "-c", pipe], env=programs.server.environment(), capture_output=True, text=True, timeout=LONGEST_SECONDS
    )
    if done.returncode:
        raise Failure(done.stderr[-300:])
    return _content(programs, "piped")


def _everything(programs: Programs) -> str:
    lines = programs("pg_dumpall", "--globals-only").splitlines()
    # Passwords are salted anew by each server.
    return "\n".join(line for line in lines if not re.match(r"\\(un)?restrict|.*PASSWORD", line))


# -- pgbench ----------------------------------------------------------------------------------------------------------

TRANSACTIONS: Final = 200

STATE: Final = """
    SELECT count(*), sum(abalance), md5(string_agg(aid || ':' || abalance, ',' ORDER BY aid)) FROM pgbench_accounts;
    SELECT sum(bbalance) FROM pgbench_branches;
    SELECT count(*), sum(tbalance) FROM pgbench_tellers;
    SELECT count(*), sum(delta), md5(string_agg(tid || ',' || aid || ',' || delta, ';' ORDER BY tid, aid, delta))
        FROM pgbench_history;
"""


def _bench(*arguments: str, clients: int = 1) -> Check:
    """Random numbers are drawn from a seed, so the tables are the same after it."""

    def check(programs: Programs) -> str:
        programs("pgbench", "-i", "-q", "-s", "1")
        run = ("-n", "-c", str(clients), "-j", "1", "-t", str(TRANSACTIONS), "--random-seed=7", "--max-tries=10")
        printed = programs("pgbench", *run, *arguments)
        processed = re.search(r"actually processed: (\d+/\d+)", printed)
        if processed is None or processed[1] != f"{clients * TRANSACTIONS}/{clients * TRANSACTIONS}":
            raise Failure(f"not all transactions were processed: {printed[-300:]}")
        return processed[1] + programs.psql(STATE)

    return check


def _initialize(*arguments: str) -> Check:
    def check(programs: Programs) -> str:
        programs("pgbench", "-i", "-q", "-s", "1", *arguments)
        return programs.psql(STATE)

    return check


def _benches(programs: Programs) -> dict[str, Check]:
    checks = {
        "initialize": _initialize(),
        "initialize on the server": _initialize("-I", "dtGvp"),
        "initialize, partitioned, with foreign keys": _initialize("--partitions=3", "--foreign-keys"),
    }
    for mode in ("simple", "extended", "prepared"):
        checks[f"tpcb-like, {mode}"] = _bench("-M", mode)
        checks[f"tpcb-like, {mode}, 4 clients"] = _bench("-M", mode, clients=4)
        checks[f"select-only, {mode}"] = _bench("-S", "-M", mode)
        checks[f"simple-update, {mode}, a connection each"] = _bench("-N", "-C", "-M", mode)
        script = "pipeline.sql" if mode != "simple" else "several.sql"
        checks[f"{script.removesuffix('.sql')}, {mode}"] = _bench("-M", mode, "-f", str(SCRIPTS / script))
        checks[f"{script.removesuffix('.sql')}, {mode}, 4 clients"] = _bench(
            "-M", mode, "-f", str(SCRIPTS / script), clients=4
        )
    return checks


SUITES: Final = (
    ProgramSuite("psql", lambda programs: None, _sections),
    ProgramSuite(
        "pg_dump",
        _create_source,
        lambda programs: {
            **{name: _round_trip(name, arguments) for name, arguments in DUMPS.items()},
            "pg_dump | pg_restore": _pipe,
            "pg_dumpall, globals": _everything,
        },
    ),
    ProgramSuite("pgbench", lambda programs: None, _benches),
)
