-- A database with one of everything that pg_dump writes.
CREATE ROLE compat_reader;
CREATE SCHEMA shop;
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'it''s fine');
CREATE TYPE shop.pair AS (a int, b text);
CREATE DOMAIN shop.positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE shop.numbers START 42 INCREMENT 7;
CREATE TABLE shop.customer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL DEFAULT 'né "quoted" \ tab	end',
    mood shop.mood,
    extra jsonb,
    twice int GENERATED ALWAYS AS (length(name) * 2) STORED
);
INSERT INTO shop.customer (name, mood, extra)
    SELECT E'name\t' || n || E'\nline \\N', (ARRAY['sad', 'ok', 'it''s fine', NULL])[1 + n % 4]::shop.mood,
        jsonb_build_object('n', n, 'text', repeat('é', n % 50)) FROM generate_series(1, 5000) n;
CREATE TABLE shop.item (
    id int PRIMARY KEY,
    customer int REFERENCES shop.customer ON DELETE CASCADE,
    amount shop.positive,
    both_of shop.pair,
    span int4range,
    data bytea,
    tags text[],
    made timestamptz,
    price numeric(20, 5) CHECK (price <> -1)
);
INSERT INTO shop.item
    SELECT n, 1 + n % 5000, n, ROW(n, 'b,' || n)::shop.pair, int4range(n, n + 3), decode(repeat(md5(n::text), 10), 'hex'),
        ARRAY['a' || n, NULL, '', '{"x"}'], '2024-02-29 12:00+00'::timestamptz + n * interval '1 minute', n / 7.0
    FROM generate_series(1, 20000) n;
CREATE INDEX item_made ON shop.item (made DESC) INCLUDE (price) WHERE amount > 5;
CREATE TABLE shop.log (at date NOT NULL, text text) PARTITION BY RANGE (at);
CREATE TABLE shop.log_2024 PARTITION OF shop.log FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE shop.log_rest PARTITION OF shop.log DEFAULT;
INSERT INTO shop.log SELECT '2024-06-01'::date + n, 'line ' || n FROM generate_series(1, 500) n;
CREATE VIEW shop.rich AS SELECT c.name, sum(i.price) AS total FROM shop.customer c JOIN shop.item i ON i.customer = c.id GROUP BY c.id;
CREATE MATERIALIZED VIEW shop.totals AS SELECT count(*) AS items, sum(price) AS total FROM shop.item;
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $body$;
CREATE TRIGGER touched BEFORE UPDATE ON shop.customer FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE PROCEDURE shop.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE RULE ignored AS ON DELETE TO shop.customer WHERE OLD.id < 0 DO INSTEAD NOTHING;
ALTER TABLE shop.customer ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON shop.customer FOR SELECT TO compat_reader USING (id > 10);
GRANT SELECT ON shop.customer TO compat_reader;
COMMENT ON TABLE shop.customer IS 'who''s who';
CREATE PUBLICATION everything FOR ALL TABLES;
CREATE STATISTICS shop.related (dependencies) ON customer, amount FROM shop.item;
SELECT lo_create(7001), lo_put(7001, 0, decode(repeat('00ff10', 50000), 'hex')) IS NULL;
SELECT lo_create(7002);
SELECT nextval('shop.numbers'), nextval('shop.numbers');
