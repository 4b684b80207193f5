"""Connection strings, as libpq reads them."""

from __future__ import annotations

import psycopg.conninfo
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtattle.proxy import dsn
from pgtattle.proxy.errors import UsageError
from pgtattle.proxy.settings import Address

PARSED = [
    "postgresql://u:p@h:1/d",
    "postgres://h",
    "postgresql://u@h/d?sslmode=require&connect_timeout=5",
    "postgresql://u%40x:p%3A%2F@h/my%20db",
    "postgresql://u@[::1]:5433/d",
    "postgresql://u@a:1,b:2/d",
    "postgresql:///d?host=/var/run/x&port=99",
    "postgresql://%2Fvar%2Frun%2Fx/d",
    "host=h port=1 dbname=d user=u password='a b\\'c'",
    "host = h  dbname='d'",
    "dbname=d",
]


@pytest.mark.parametrize("text", PARSED)
def test_the_parameters_are_libpqs(text: str) -> None:
    expected = {key: str(value) for key, value in psycopg.conninfo.conninfo_to_dict(text).items()}
    assert dsn.parse(text) == expected


@pytest.mark.parametrize("text", ["mysql://h/d", "no string", "host=", "host='open", "postgresql://h:port/d"])
def test_what_is_none_is_a_usage_error_that_does_not_repeat_it(text: str) -> None:
    if text == "host=":
        assert dsn.parse(text) == {"host": ""}
        return
    with pytest.raises(UsageError) as caught:
        dsn.upstream(text, {})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("postgresql://h:1/d", (Address("h", 1),)),
        ("postgresql://a:1,b:2/d", (Address("a", 1), Address("b", 2))),
        ("host=a,b port=7", (Address("a", 7), Address("b", 7))),
        ("host=/tmp/x port=7", (Address(path="/tmp/x/.s.PGSQL.7"),)),
        ("hostaddr=127.0.0.1 host=name", (Address("127.0.0.1", 5432, name="name"),)),
        ("postgresql://[::1]/d", (Address("::1", 5432),)),
    ],
)
def test_addresses(text: str, addresses: tuple[Address, ...]) -> None:
    assert dsn.upstream(text, {"PGUSER": "u"}).addresses == addresses


def test_the_environment_fills_what_is_left_out() -> None:
    found = dsn.upstream("postgresql://h/d", {"PGUSER": "me", "PGPASSWORD": "geheim", "PGPORT": "9", "PGHOST": "other"})
    assert (found.addresses, found.user, found.password, found.database) == ((Address("h", 5432),), "me", "geheim", "d")
    assert "geheim" not in found.dsn
    assert psycopg.conninfo.conninfo_to_dict(found.dsn)["host"] == "h"


def test_the_order_of_places() -> None:
    environment = {"PGHOST": "pg", "PGUSER": "u", "DATABASE_URL": "postgresql+asyncpg://u:p@url:3/x"}
    assert dsn.upstream("postgresql://flag", environment).addresses == (Address("flag", 5432),)
    with_variable = {**environment, "PGTATTLE_UPSTREAM": "postgresql://own"}
    assert dsn.upstream("", with_variable).addresses == (Address("own", 5432),)
    assert dsn.upstream("", environment, database_url=True).addresses == (Address("pg", 5432),)
    del environment["PGHOST"]
    found = dsn.upstream("", environment, database_url=True)
    assert (found.addresses, found.password, found.database) == ((Address("url", 3),), "p", "x")
    with pytest.raises(UsageError, match="--upstream"):
        dsn.upstream("", environment)


def test_service_files_are_refused_rather_than_missed() -> None:
    with pytest.raises(UsageError, match="service files"):
        dsn.upstream("service=mine", {"PGUSER": "u"})


def test_ports_that_cannot_be() -> None:
    for text in ("host=a port=0", "host=a port=70000", "host=a,b,c port=1,2", "host=a port=x"):
        with pytest.raises(UsageError):
            dsn.upstream(text, {"PGUSER": "u"})


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
def test_quoted_values_come_back(value: str) -> None:
    assert dsn.parse(f"host=h password={dsn.quote(value)} dbname=d") == {"host": "h", "password": value, "dbname": "d"}
