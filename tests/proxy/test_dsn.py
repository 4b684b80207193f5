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
    assert text not in str(caught.value)


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


VARIABLES = {
    "PGTATTLE_UPSTREAM": "postgresql://own:own-secret@own:1/own",
    "DATABASE_URL": "postgresql+asyncpg://u:url-secret@url:2/url",
    "PGHOST": "pg",
    "PGPORT": "3",
    "PGUSER": "pguser",
    "PGPASSWORD": "pg-secret",
    "PGDATABASE": "pg",
}


@pytest.mark.parametrize(
    ("given", "without", "place", "password", "database", "name"),
    [
        ("postgresql://u@flag:4/flag", (), "flag:4", "pg-secret", "flag", "--upstream"),
        ("", (), "own:1", "own-secret", "own", "PGTATTLE_UPSTREAM"),
        ("", ("PGTATTLE_UPSTREAM",), "url:2", "url-secret", "url", "DATABASE_URL"),
        ("", ("PGTATTLE_UPSTREAM", "DATABASE_URL"), "pg:3", "pg-secret", "pg", "PGHOST and PGPORT"),
    ],
)
def test_the_order_of_places(
    given: str, without: tuple[str, ...], place: str, password: str, database: str, name: str
) -> None:
    environment = {key: value for key, value in VARIABLES.items() if key not in without}
    found = dsn.upstream(given, environment)
    assert (str(found.addresses[0]), found.password, found.database) == (place, password, database)
    assert dsn.source(given, environment)[0] == name
    assert "secret" not in found.dsn


def test_where_nothing_says_it_the_message_says_how() -> None:
    with pytest.raises(UsageError, match=r"--upstream .* PGTATTLE_UPSTREAM, DATABASE_URL or PGHOST"):
        dsn.upstream("", {"PGUSER": "u", "DATABASE_URL": ""})


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg", "postgis", "pgsql", "psql", "ecto"]
)
def test_the_schemes_of_frameworks(scheme: str) -> None:
    found = dsn.upstream("", {"DATABASE_URL": f"{scheme}://u:p%40ss@h:1/d"})
    assert (str(found.addresses[0]), found.user, found.password, found.database) == ("h:1", "u", "p@ss", "d")


def test_the_options_of_drivers_are_left_out_and_named() -> None:
    url = "postgres://u@h/d?schema=public&connection_limit=5&pgbouncer=true&pool_timeout=3&connect_timeout=4&ssl=true"
    found = dsn.upstream("", {"DATABASE_URL": url})
    assert found.ignored == ("schema", "connection_limit", "pgbouncer", "pool_timeout")
    assert (found.connect_seconds, found.tls.mode) == (4.0, "require")
    assert not {"schema", "ssl"} & set(psycopg.conninfo.conninfo_to_dict(found.dsn))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("postgresql://u@h/d?sslmod=require", "did you mean 'sslmode'"),
        ("host=h hosst=x", "did you mean 'host'"),
        ("host=h pool=5", "no option 'pool'"),
        ("postgresql://u:12?secret@h/d", "%-escapes"),
        ("postgresql://u:se/cret@h/d", "not HOST, HOST:PORT"),
        ("mysql://u:secret@h/d", "mysql:// is not PostgreSQL"),
        ("sqlite:///secret.db", "sqlite:// is not PostgreSQL"),
        ("user=u secret", "no connection string"),
    ],
)
@pytest.mark.parametrize("variable", ["PGTATTLE_UPSTREAM", "DATABASE_URL"])
def test_a_string_that_cannot_be_names_its_variable_and_no_secret(variable: str, text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        dsn.upstream("", {variable: text, "PGUSER": "u"})
    assert str(caught.value).startswith(f"{variable}: ")
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


def test_the_side_connections_own_string_is_completed() -> None:
    server = dsn.upstream("postgresql://app@h:1/shop?sslmode=require", {"PGPASSWORD": "secret"})
    completed = psycopg.conninfo.conninfo_to_dict(dsn.analyze_dsn("user=reader password=own", server))
    assert completed == {
        **{"host": "h", "port": "1", "dbname": "shop", "sslmode": "require"},
        **{"user": "reader", "password": "own"},
    }
    other = psycopg.conninfo.conninfo_to_dict(dsn.analyze_dsn("postgresql+psycopg://reader@replica/", server))
    assert other.pop("sslrootcert", "system") == "system"
    assert other == {"host": "replica", "user": "reader", "dbname": "shop", "sslmode": "verify-full"}
    here = psycopg.conninfo.conninfo_to_dict(dsn.analyze_dsn("host=/tmp user=reader dbname=copy", server))
    assert here == {"host": "/tmp", "user": "reader", "dbname": "copy"}


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
