"""A secret in every place that SQL has for one: no output of pgtattle holds any, before and after a restart."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import struct
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Database, Serve, Served
from tests.end_to_end.watching import answers, report, wait_for
from tests.end_to_end.wire import SYNC, Client, begun, execute, frame, query

PLACES = r"""
select '@'
select 1 as x where '@' = 'x'
select E'a\'@'
select U&'\0061@', U&'!0061@' uescape '!'
select $$@$$, $t$ a $$ @ $t$
select 'a'|'@'
select E'a'|'b\'@'
select date '@', B'@', x'@', N'@', interval '@' day
select 1 where 'a' in ('b', '@') or 'c' like '@' escape '!'
select '{"k": "@"}'::json->>'@', array['@'], '@'::int
do $$ begin perform '@'; raise notice '@'; raise exception '@'; end $$
do 'begin perform ''@''; end'
create function pg_temp.f() returns text language sql set my.secret = @ as $f$ select '@' $f$
select 1 /* @ */ -- @
select 1 /* a /* b */ @ */
/* @, password=@ */ select 2
-- @|select 3
create role secretive password '@'
alter role current_user in database postgres set my.secret = @
alter role current_user in database postgres reset my.secret
set my.secret = @
set local my.secret to '@', "@"
set session my.secret to @, @
select set_config('my.secret', '@', false)
insert into s (a) values ('a'), ('@')
insert into s (a) values ('@'), ('@')
notify c, '@'
listen c; notify c, '@'
prepare x1 as select $1::text; execute x1('@'); deallocate x1
begin; declare c cursor for select '@'; fetch c; commit
begin; prepare transaction '@'
select '@
select $$@
select 1 /* @
select "@
select * from s where a = 'O'@' and b = 'it's @'
selec '@'
password=@
@ select
select 1; @; select '@'
create user mapping for current_user server x options (password '@')
create subscription s connection 'host=127.0.0.1 password=@' publication x with (connect = false)
copy s to program 'echo @ >/dev/null'
copy s to stdout with (null '@')
copy s from '/nowhere/@'
comment on table s is '@'
set session authorization '@'
explain select '@'
select pg_sleep(0.3), '@'
select 5 /*route='/u',request_id='r1',api_token='@'*/, '@'
set standard_conforming_strings = off
select 'a\'@ x'
select 'a\', 'b\' , @ '
select N'a\'@', U&'a\'@'
select 'a'|'b\'@'
set standard_conforming_strings = on
select 'a\', '@'
set standard_conforming_strings = off; select 1, 'a\'@ x'
set standard_conforming_strings = on; select 1, 'a\', '@'
begin; set local standard_conforming_strings = off
select 'a\'@ x'
rollback
select 'a\', '@'
set backslash_quote = on
select E'a\'@ x'
"""
"""Statements, `@` a secret, `|` the end of a line."""
MULE = "MULE_INTERNAL"
"""Has a conversion to few others: its clients use a database in it."""
ENCODINGS = {
    "LATIN1": b"\xe9",
    "WIN1252": b"\x80",
    "EUC_JP": b"\xc6\xfc",
    "SJIS": b"\x95\x5c",
    "SHIFT_JIS_2004": b"\x95\x5c",
    "BIG5": b"\xa5\x5c",
    "GBK": b"\x81\x5c",
    "GB18030": b"\x81\x30\x81\x30\x81\x5c",
    "UHC": b"\x81\x41",
    "JOHAB": b"\xd0\x5c",
    "SQL_ASCII": b"\xff\x5c\x5c",
    MULE: b"\x81\xe9",
    "EUC_TW": b"\xc4\xe3",
}
LOOP = 30


class Secrets:
    """Secrets without end, by what they are in."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self._numbers = itertools.count()

    def hide(self, sql: bytes) -> bytes:
        for _ in range(sql.count(b"@")):
            secret = f"zq{next(self._numbers):04d}{os.urandom(3).hex()}zq"
            self.places[secret] = repr(sql)
            sql = sql.replace(b"@", secret.encode(), 1)
        return sql


def bound(sql: bytes, value: bytes, name: bytes = b"") -> bytes:
    asked = frame(b"P", name + b"\0" + sql + b"\0\0\0") + frame(
        b"B", b"\0" + name + b"\0\0\0\0\1" + struct.pack("!i", len(value)) + value + b"\0\0"
    )
    return asked + execute() + SYNC


class Talk:
    """One client, which counts what it began."""

    def __init__(self, served: Served, secrets: Secrets, **parameters: str) -> None:
        self.client = Client(served.database)
        self.client.login(**parameters)
        self.begun = 0
        self._secrets = secrets

    def ask(self, sql: bytes) -> None:
        self.begun += begun(self.client.ask(query(self._secrets.hide(sql))))

    def bind(self, sql: bytes, value: bytes) -> None:
        self.begun += begun(self.client.ask(bound(self._secrets.hide(sql), self._secrets.hide(value))))

    def copy(self, data: bytes, last: bytes) -> None:
        self.client.send(query("copy s from stdin"))
        self.client.until(b"G")
        self.begun += begun(
            self.client.ask(frame(b"d", self._secrets.hide(data)), frame(last, self._secrets.hide(b"@\0")))
        )

    def everywhere(self) -> None:
        self.ask(b"create temp table s (a text unique)")
        for line in PLACES.strip().splitlines():
            self.ask(line.replace("|", "\n").encode())
        self.bind(b"select $1::text, '@'", b"@")
        self.bind(b"insert into s values ($1)", b"@")
        self.copy(b"@\n", b"f")
        self.encoded()
        for _ in range(LOOP):
            self.ask(b"select a from s where a = '@'")
            self.bind(b"select relname from pg_class where relname = $1 and 'x' <> '@'", b"@")
        self.ask(b"select a from s where a = 'x' or '@' = '@' --'")

    def encoded(self) -> None:
        for encoding, raw in ENCODINGS.items():
            self.ask(f"set client_encoding = '{encoding}'".encode())
            self.ask(b"select E'" + raw + b"', ' @ '")
            self.ask(b"select '" + raw + b"' || ' @ ', E'\\'@', \"" + raw + b'" from s')
            self.bind(b"select $1::text /* " + raw + b" @ */", raw + b"@")
            self.ask(b"set client_encoding = 'UTF8'")

    def depending(self) -> None:
        """What is misread by those who do not know the settings of this connection."""
        self.ask(rb"select 'a\'@ x'")
        self.ask(rb"select 'a\', @ '")
        self.bind(rb"select $1, '\'@ x'", b"@")


def outputs(served: Served, log: Path) -> Iterator[tuple[str, str]]:
    lists = [f"/api/v1/{name}?limit=1000" for name in ("executions", "statements", "findings", "units")]
    for path in [*lists, "/api/v1/session", "/api/v1/report", "/metrics"]:
        found = served.get(path)
        assert found.status_code == 200, found.text
        yield path, found.text
    for unit in served.get("/api/v1/units?limit=1000").json()["items"]:
        yield "unit", served.get(f"/api/v1/units/{urllib.parse.quote(unit['id'], safe='')}").text
    yield "log", log.read_text()
    # A report on the session comes between the turns, and says which execution was the last.
    newest = served.get("/api/v1/executions?limit=1").json()["items"][0]["id"]
    events = ""
    with httpx.stream("GET", f"http://{served.addresses['api']}/api/v1/events?history=10000", timeout=60) as stream:
        for chunk in stream.iter_text():
            events += chunk
            if any(int(number) >= newest for number in re.findall(r"event: session\nid: .*\.(\d+)\.\d+\n", events)):
                break
    yield "events", events


def found_in(served: Served, secrets: Secrets, log: Path) -> list[tuple[str, str]]:
    return [
        (where, place)
        for where, text in outputs(served, log)
        for secret, place in secrets.places.items()
        if secret in text.lower()
    ]


@pytest.mark.parametrize("values", ["redacted", pytest.param("hidden", marks=pytest.mark.slow)])
def test_no_output_holds_a_secret(values: str, trusting: Database, serve: Serve, tmp_path: Path) -> None:
    log, secrets = tmp_path / "log", Secrets()
    with log.open("w") as stderr:
        served = serve(trusting, "--values", values, "--log-format", "json", stderr=stderr)
    one = Talk(served, secrets, application_name="app")
    for encoding in ("LATIN1", "EUC_JP", "SQL_ASCII", MULE):
        one.ask(f"create database {encoding} encoding '{encoding}' template template0 locale 'C'".encode())
    one.everywhere()
    wait_for(lambda: report(served).session.executions == one.begun, 60)
    assert found_in(served, secrets, log) == []
    for secret in list(secrets.places)[:3]:
        assert served.get(f"/api/v1/executions?filter={secret}").json()["items"] == []

    # What the profiler that comes now was told of the connections that it finds.
    off = Talk(served, secrets, options="-c standard_conforming_strings=off")
    one.ask(b"set standard_conforming_strings = off")
    encoded = {encoding: Talk(served, secrets, client_encoding=encoding) for encoding in ENCODINGS if encoding != MULE}
    encoded |= {name: Talk(served, secrets, database=name.lower()) for name in (MULE, "SQL_ASCII", "LATIN1", "EUC_JP")}
    os.kill(int(served.addresses["profiler_pid"]), signal.SIGKILL)
    wait_for(lambda: answers(served) and report(served).session.restarts == 1, 60)
    secrets.places.clear()
    begun_before = one.begun + off.begun
    one.depending()
    off.depending()
    for encoding, talk in encoded.items():
        talk.ask(b"select E'" + ENCODINGS[encoding] + b"', ' @ '")
        talk.bind(b"select $1::text /* " + ENCODINGS[encoding] + b" @ */", ENCODINGS[encoding] + b"@")
    total = one.begun + off.begun - begun_before + sum(talk.begun for talk in encoded.values())
    wait_for(lambda: len(executions(served)) >= total, 60)
    assert found_in(served, secrets, log) == []


def executions(served: Served) -> list[dict[str, object]]:
    return list(json.loads(served.get("/api/v1/executions?limit=1000").text)["items"])
