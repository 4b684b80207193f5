"""Ten tests with psycopg alone: two of them are planted trouble, eight are as they should be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import psycopg
import pytest

URL = os.environ["DATABASE_URL"]


@pytest.fixture
def connection() -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(URL) as made:
        yield made
        made.rollback()


@pytest.fixture(scope="module")
def shared() -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """One connection in autocommit for many tests, as a pool of one would give it out."""
    with psycopg.connect(URL, autocommit=True) as made:
        yield made


def test_planted_a_request_that_waits_between_its_turns(shared: psycopg.Connection[tuple[object, ...]]) -> None:
    tag = " /*request_id='r-17',route='/books'*/"
    rows = shared.execute("SELECT author_id FROM books ORDER BY md5(title) LIMIT 12" + tag).fetchall()
    for (author,) in rows:
        assert shared.execute("SELECT name FROM authors WHERE id = %s" + tag, (author,)).fetchone()
        time.sleep(0.05)
    shared.execute("SELECT 1 /*request_id='r-18'*/")


def test_planted_jobs_that_are_marked_one_by_one() -> None:
    with psycopg.connect(URL, autocommit=True) as made:
        for number in range(1, 41):
            made.execute("UPDATE jobs SET state = %s WHERE id = %s", ("done", number))
            time.sleep(0.02)


def test_a_list_in_one_query(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    keys = [37 * number for number in range(1, 30)]
    assert len(connection.execute("SELECT name FROM authors WHERE id = ANY(%s)", (keys,)).fetchall()) == 29


def test_a_join(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    rows = connection.execute("SELECT b.title, a.name FROM books b JOIN authors a ON a.id = b.author_id LIMIT 50")
    assert len(rows.fetchall()) == 50


def test_many_rows_down_a_pipeline(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.cursor().executemany("INSERT INTO logs (line) VALUES (%s)", [(f"many {n}",) for n in range(40)])


def test_a_copy(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with connection.cursor().copy("COPY logs (line) FROM STDIN") as copy:
        for number in range(50):
            copy.write_row((f"copied {number}",))


def test_a_cursor_of_the_server(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with connection.cursor(name="books") as cursor:
        cursor.itersize = 50
        assert sum(1 for _ in cursor.execute("SELECT id FROM books")) == 400


def test_a_poll_that_waits(shared: psycopg.Connection[tuple[object, ...]]) -> None:
    for _ in range(6):
        shared.execute("SELECT state FROM jobs WHERE id = 50 /*job_id='wait'*/").fetchone()
        time.sleep(0.3)


def test_pages_of_a_list(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    for page in range(8):
        query = "SELECT id, title FROM books ORDER BY id LIMIT 20 OFFSET %s"
        assert len(connection.execute(query, (20 * page,)).fetchall()) == 20


def test_a_list_and_one_of_its_rows(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    (first, *_) = connection.execute("SELECT id, author_id FROM books ORDER BY id LIMIT 30").fetchall()
    assert connection.execute("SELECT name FROM authors WHERE id = %s", (first[1],)).fetchone()
    assert connection.execute("SELECT value FROM settings WHERE name = 'theme'").fetchone() == ("dark",)
