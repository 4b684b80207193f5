"""The bookshop's database: 300,000 rows made by the server itself, with one index left out on purpose."""

from __future__ import annotations

from typing import Final

import psycopg

SCHEMA: Final = """
CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL, country text NOT NULL);
CREATE TABLE books (
    id int PRIMARY KEY, author_id int NOT NULL REFERENCES authors, title text NOT NULL, price numeric(8, 2) NOT NULL
);
CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL UNIQUE, name text NOT NULL);
CREATE TABLE orders (
    id int PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, placed_at timestamptz NOT NULL,
    state text NOT NULL
);
CREATE TABLE order_items (
    order_id int NOT NULL REFERENCES orders, book_id int NOT NULL REFERENCES books, quantity int NOT NULL,
    PRIMARY KEY (order_id, book_id)
);
CREATE TABLE reviews (
    id int PRIMARY KEY, book_id int NOT NULL REFERENCES books, reviewer text NOT NULL, stars int NOT NULL
);
CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL);

INSERT INTO authors SELECT g, 'Author ' || g, (ARRAY['Austria', 'Brazil', 'Chad', 'Denmark'])[1 + g % 4]
    FROM generate_series(1, 1000) g;
INSERT INTO books SELECT g, 1 + (g * 7919) % 1000, 'Book ' || g, 5 + g % 40 FROM generate_series(1, 10000) g;
INSERT INTO customers SELECT g, 'reader' || g || '@example.org', 'Reader ' || g FROM generate_series(1, 5000) g;
INSERT INTO orders SELECT g, 1 + (g * 4241) % 5000, '2024-01-01'::timestamptz + g * interval '7 minutes',
    (ARRAY['new', 'paid', 'sent'])[1 + g % 3] FROM generate_series(1, 20000) g;
INSERT INTO order_items SELECT 1 + g / 3, 1 + (g * 31) % 10000, 1 + g % 3 FROM generate_series(0, 49999) g;
INSERT INTO reviews SELECT g, 1 + (g * 17) % 10000, 'reader' || (g * 13) % 20000, 1 + g % 5
    FROM generate_series(1, 220000) g;
INSERT INTO settings VALUES ('currency', 'EUR'), ('vat', '7'), ('free_delivery_from', '30');

CREATE INDEX ON books (author_id);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON order_items (book_id);
CREATE INDEX ON reviews (book_id);
"""


def fill(dsn: str) -> int:
    """Create the bookshop in an empty database and give the number of its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute("VACUUM ANALYZE")
        row = connection.execute(
            "SELECT sum(reltuples)::int FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchone()
    return int(row[0]) if row else 0
