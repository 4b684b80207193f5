<?php
// PDO: a statement is prepared by name in a round trip of its own, but for PGSQL_ATTR_DISABLE_PREPARES, which it has for
// PgBouncer.
declare(strict_types=1);

const BOOK_LIST = 'SELECT id, title, author_id FROM books ORDER BY id LIMIT ?';
const AUTHOR_LIST = 'SELECT id, name FROM authors ORDER BY id LIMIT ?';

function page(string $scenario, string $twin): callable
{
    $pages = [
        'many-to-one sick' => 'written_sick',
        'many-to-one cured' => 'written_cured',
        'one-to-many sick' => 'chapters_sick',
        'one-to-many cured' => 'chapters_cured',
        'nested sick' => 'reviews_sick',
        'nested cured' => 'reviews_cured',
    ];
    return function () use ($pages, $scenario, $twin): array {
        $where = array_map('getenv', ['PGHOST', 'PGPORT', 'PGDATABASE', 'PGUSER']);
        $connection = new PDO(vsprintf('pgsql:host=%s;port=%s;dbname=%s;user=%s', $where), null, null, [
            PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
            PDO::PGSQL_ATTR_DISABLE_PREPARES => pooled(),
        ]);
        $query = function (string $sql, mixed ...$values) use ($connection): array {
            $statement = $connection->prepare(tagged($sql));
            $statement->execute($values);
            return $statement->fetchAll(PDO::FETCH_ASSOC);
        };
        return $pages["$scenario $twin"]($query);
    };
}

/** As many placeholders as values. */
function places(array $values): string
{
    return implode(', ', array_fill(0, count($values), '?'));
}

function written_sick(callable $query): array
{
    $rows = [];
    foreach ($query(BOOK_LIST, BOOKS) as $book) {
        [$author] = $query('SELECT id, name FROM authors WHERE id = ?', $book['author_id']);
        $rows[] = [$book['title'], $author['name']];
    }
    return $rows;
}

function written_cured(callable $query): array
{
    $sql = 'SELECT b.title, a.name FROM books b JOIN authors a ON a.id = b.author_id ORDER BY b.id LIMIT ?';
    return array_map('array_values', $query($sql, BOOKS));
}

function chapters_sick(callable $query): array
{
    $rows = [];
    foreach ($query(BOOK_LIST, BOOKS) as $book) {
        foreach ($query('SELECT id, title FROM chapters WHERE book_id = ?', $book['id']) as $chapter) {
            $rows[] = [$book['title'], $chapter['title']];
        }
    }
    return $rows;
}

function chapters_cured(callable $query): array
{
    $titles = array_column($query(BOOK_LIST, BOOKS), 'title', 'id');
    $sql = 'SELECT id, book_id, title FROM chapters WHERE book_id IN (' . places($titles) . ')';
    return array_map(
        fn (array $chapter) => [$titles[$chapter['book_id']], $chapter['title']],
        $query($sql, ...array_keys($titles)),
    );
}

function reviews_sick(callable $query): array
{
    $rows = [];
    foreach ($query(AUTHOR_LIST, AUTHORS) as $author) {
        foreach ($query('SELECT id, title FROM books WHERE author_id = ?', $author['id']) as $book) {
            foreach ($query('SELECT id, body FROM reviews WHERE book_id = ?', $book['id']) as $review) {
                $rows[] = [$author['name'], $book['title'], $review['body']];
            }
        }
    }
    return $rows;
}

function reviews_cured(callable $query): array
{
    $sql = 'SELECT a.name, b.title, r.body FROM (SELECT id, name FROM authors ORDER BY id LIMIT ?) a '
        . 'JOIN books b ON b.author_id = a.id JOIN reviews r ON r.book_id = b.id';
    return array_map('array_values', $query($sql, AUTHORS));
}
