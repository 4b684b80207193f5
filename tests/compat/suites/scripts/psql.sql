\echo === rows
SELECT n, n * 1.5 AS f, NULL AS nothing, '' AS empty, repeat('é', n % 7) AS text FROM generate_series(1, 300) n;
\echo === wide rows
SELECT n, md5(n::text), repeat(md5(n::text), 2000) FROM generate_series(1, 40) n;
\echo === many rows
SELECT n, md5(n::text) FROM generate_series(1, 60000) n;
\echo === formats
\pset format csv
SELECT 1 AS a, 'x,"y' AS b;
\pset format html
SELECT 1 AS a, '<b>' AS b;
\pset format aligned
\x
SELECT 1 AS a, E'two\nlines' AS b;
\x
\echo === several statements in one query
SELECT 1 AS a \; SELECT 2 AS b \; SELECT 3 AS c;
SELECT 1 \; SELECT 1/0 \; SELECT 2;
\echo === empty query
;
-- only a comment
;
\echo === errors
SELECT 1/0;
SELEC 1;
SELECT * FROM absent;
SELECT 'é' || absent_function(1);
DO $$ BEGIN RAISE EXCEPTION 'mine %', 7 USING ERRCODE = 'P7777', DETAIL = 'detail', HINT = 'hint'; END $$;
\errverbose
\echo === notices
DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; RAISE INFO 'three'; END $$;
DROP TABLE IF EXISTS absent;
\echo === transactions
CREATE TABLE t (id int PRIMARY KEY, name text);
BEGIN;
INSERT INTO t VALUES (1, 'one');
SAVEPOINT s;
INSERT INTO t VALUES (1, 'again');
SELECT 1;
ROLLBACK TO s;
INSERT INTO t VALUES (2, 'two');
COMMIT;
BEGIN;
SELECT absent;
COMMIT;
SELECT * FROM t ORDER BY id;
START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY;
INSERT INTO t VALUES (3, 'three');
ROLLBACK AND CHAIN;
ROLLBACK;
\echo === returning, merge and upsert
INSERT INTO t VALUES (1, 'uno') ON CONFLICT (id) DO UPDATE SET name = excluded.name RETURNING *;
MERGE INTO t USING (VALUES (2, 'dos'), (4, 'cuatro')) v (id, name) ON t.id = v.id
    WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.name);
DELETE FROM t WHERE id = 4 RETURNING id;
\echo === copy in
COPY t FROM STDIN;
10	ten
11	\N
12	tab\there
\.
COPY t (id, name) FROM STDIN WITH (FORMAT csv, HEADER);
id,name
20,"twenty, ""quoted"""
21,
\.
\echo === copy in that fails
COPY t FROM STDIN;
30	thirty
31	a	column too many
32	never reached
\.
SELECT count(*) FROM t;
\echo === copy in inside of a query of several statements
BEGIN \; COPY t FROM STDIN \; SELECT count(*) FROM t \; ROLLBACK;
40	forty
\.
SELECT count(*) FROM t;
\echo === copy out
COPY t TO STDOUT;
COPY (SELECT * FROM t ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER, FORCE_QUOTE *);
\copy (SELECT n, md5(n::text) FROM generate_series(1, 20000) n) TO 'copied.txt'
CREATE TABLE copied (n int, text text);
\copy copied FROM 'copied.txt'
SELECT count(*), sum(n), md5(string_agg(text, '' ORDER BY n)) FROM copied;
\copy copied TO 'copied.bin' WITH (FORMAT binary)
TRUNCATE copied;
\copy copied FROM 'copied.bin' WITH (FORMAT binary)
SELECT count(*), md5(string_agg(text, '' ORDER BY n)) FROM copied;
\echo === fetch in portions
\set FETCH_COUNT 97
SELECT n FROM generate_series(1, 1000) n;
SELECT 10 / (n - 500) FROM generate_series(1, 1000) n;
\unset FETCH_COUNT
\echo === cursors
BEGIN;
DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT n FROM generate_series(1, 20) n;
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
MOVE LAST IN c;
FETCH PRIOR FROM c;
COMMIT;
FETCH ABSOLUTE 7 FROM c;
CLOSE c;
\echo === prepared statements
PREPARE p (int, text) AS SELECT $1 + 1 AS a, $2 || '!' AS b;
EXECUTE p (1, 'x');
EXECUTE p ('y', 'x');
SELECT name, parameter_types FROM pg_prepared_statements;
DEALLOCATE p;
EXECUTE p (1, 'x');
DISCARD ALL;
\echo === describe
\d t
\dt
\gdesc
SELECT 1 AS a, 'x'::varchar(3) AS b, now() AS c \gdesc
SELEC \gdesc
\echo === variables and queries made of rows
SELECT 7 AS seven, 'it''s' AS text \gset
SELECT :seven + 1 AS a, :'text' AS b;
SELECT format('SELECT %s AS n', n) FROM generate_series(1, 3) n \gexec
SELECT n, n % 2 AS m, n * n AS v FROM generate_series(1, 4) n \crosstabview
\echo === large objects
\! head -c 300000 /dev/zero | tr '\000' 'x' > large.txt
\lo_import large.txt
SELECT :LASTOID > 0 AS imported, length(lo_get(:LASTOID)) AS bytes;
\lo_export :LASTOID exported.txt
\! cmp large.txt exported.txt && echo same
\lo_unlink :LASTOID
SELECT count(*) FROM pg_largeobject_metadata;
\echo === notifications
LISTEN channel;
\pset format unaligned
NOTIFY channel, 'hello' \; SELECT 'after' AS a;
UNLISTEN *;
\pset format aligned
\echo === encodings
\encoding LATIN1
SELECT 'caf' || chr(233) AS latin, length('x' || chr(233));
SELECT chr(8364) AS euro;
\encoding UTF8
SET client_encoding = 'SQL_ASCII';
SELECT 'é' AS raw;
RESET client_encoding;
\echo === settings that the server tells about
SET application_name = 'of the script';
SET timezone = 'Europe/Rome';
SET datestyle = 'german';
SELECT current_setting('application_name'), '2024-02-29 12:00+00'::timestamptz;
RESET ALL;
\echo === statement timeout
SET statement_timeout = 50;
SELECT pg_sleep(30);
RESET statement_timeout;
SELECT 'alive' AS a;
\echo === cancel of oneself
SELECT pg_cancel_backend(pg_backend_pid());
SELECT 'alive' AS a;
\echo === identity
SELECT client_addr, backend_type, application_name, state FROM pg_stat_activity WHERE pid = pg_backend_pid();
SELECT inet_client_addr(), current_user, session_user, current_database(), pg_is_in_recovery();
\echo === roles
CREATE ROLE compat_guest LOGIN PASSWORD 'secret';
SET ROLE compat_guest;
SELECT current_user, session_user;
CREATE TABLE forbidden ();
SELECT pg_reload_conf();
RESET ROLE;
\echo === reconnect
\c postgres compat_guest
SELECT current_user;
\c - postgres
SELECT current_user;
\echo === two sessions at once
SELECT pg_advisory_lock(7);
\! psql -X -A -t -c "SELECT 'other session', pg_try_advisory_lock(7)"
SELECT pg_advisory_unlock(7);
\echo === explain
EXPLAIN (COSTS OFF) SELECT * FROM t WHERE id = 1;
EXPLAIN (COSTS OFF, FORMAT json) SELECT count(*) FROM t;
\echo === a long statement
SELECT format('SELECT length(%L) AS n, md5(%L) AS h', repeat('long ', 400000), repeat('long ', 400000)) \gexec
\echo === a large value
SELECT length(repeat('0123456789', 2000000)) AS n, md5(repeat('0123456789', 2000000)) AS h;
SELECT repeat('0123456789', 2000000) AS v \g large.out
\! wc -c < large.out
\echo === watch
SELECT 'watched' AS w \gset
SELECT :'w' AS a;
\echo === the end of the session by the server
SELECT pg_terminate_backend(pg_backend_pid());
