-- Enough rows for loops; the tables are small, so no index is missing.
DROP TABLE IF EXISTS reviews, books, authors, settings, jobs, logs;
CREATE TABLE authors (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE books (id int PRIMARY KEY, title text NOT NULL, author_id int NOT NULL REFERENCES authors, price int NOT NULL);
CREATE TABLE reviews (id int PRIMARY KEY, book_id int NOT NULL REFERENCES books, stars int NOT NULL);
CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE jobs (id int PRIMARY KEY, state text NOT NULL);
CREATE TABLE logs (id serial PRIMARY KEY, line text NOT NULL);
INSERT INTO authors SELECT n * 37, 'author ' || n FROM generate_series(1, 120) n;
INSERT INTO books SELECT n, 'book ' || n, (1 + n * 7 % 120) * 37, n % 50 FROM generate_series(1, 400) n;
INSERT INTO reviews SELECT n, 1 + n * 13 % 400, 1 + n % 5 FROM generate_series(1, 1200) n;
INSERT INTO settings VALUES ('theme', 'dark'), ('currency', 'EUR');
INSERT INTO jobs SELECT n, 'new' FROM generate_series(1, 60) n;
CREATE INDEX ON books (author_id);
CREATE INDEX ON reviews (book_id);
ANALYZE;
