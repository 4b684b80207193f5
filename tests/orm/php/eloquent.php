<?php
// Eloquent, Laravel's ORM. Behind PgBouncer PDO writes the values into the text, as Laravel's users set it.
declare(strict_types=1);

require 'Illuminate/Database/autoload.php';

use Illuminate\Database\Capsule\Manager;
use Illuminate\Database\Connection;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Database\PostgresConnection;

/** A connection whose statements have the tags of the request. */
class Commenting extends PostgresConnection
{
    protected function run($query, $bindings, Closure $callback)
    {
        return parent::run(tagged($query), $bindings, $callback);
    }
}

class Author extends Model
{
    public function books()
    {
        return $this->hasMany(Book::class);
    }
}

class Book extends Model
{
    public function author()
    {
        return $this->belongsTo(Author::class);
    }

    public function chapters()
    {
        return $this->hasMany(Chapter::class);
    }

    public function reviews()
    {
        return $this->hasMany(Review::class);
    }
}

class Chapter extends Model
{
}

class Review extends Model
{
}

function written(iterable $books): array
{
    $rows = [];
    foreach ($books as $book) {
        $rows[] = [$book->title, $book->author->name];
    }
    return $rows;
}

function chapters(iterable $books): array
{
    $rows = [];
    foreach ($books as $book) {
        foreach ($book->chapters as $chapter) {
            $rows[] = [$book->title, $chapter->title];
        }
    }
    return $rows;
}

function reviews(iterable $authors): array
{
    $rows = [];
    foreach ($authors as $author) {
        foreach ($author->books as $book) {
            foreach ($book->reviews as $review) {
                $rows[] = [$author->name, $book->title, $review->body];
            }
        }
    }
    return $rows;
}

function page(string $scenario, string $twin): callable
{
    Connection::resolverFor('pgsql', fn (...$given) => new Commenting(...$given));
    $manager = new Manager();
    $manager->addConnection([
        'driver' => 'pgsql',
        'host' => getenv('PGHOST'),
        'port' => getenv('PGPORT'),
        'database' => getenv('PGDATABASE'),
        'username' => getenv('PGUSER'),
        'password' => '',
        'charset' => 'utf8',
        'options' => pooled() ? [PDO::ATTR_EMULATE_PREPARES => true] : [],
    ]);
    $manager->setAsGlobal();
    $manager->bootEloquent();
    $books = fn (string ...$with) => Book::with($with)->orderBy('id')->limit(BOOKS)->get();
    $authors = fn (string ...$with) => Author::with($with)->orderBy('id')->limit(AUTHORS)->get();
    $pages = [
        'many-to-one sick' => fn () => written($books()),
        'many-to-one cured' => fn () => written($books('author')),
        'one-to-many sick' => fn () => chapters($books()),
        'one-to-many cured' => fn () => chapters($books('chapters')),
        'nested sick' => fn () => reviews($authors()),
        'nested cured' => fn () => reviews($authors('books.reviews')),
    ];
    return function () use ($manager, $pages, $scenario, $twin): array {
        try {
            return $pages["$scenario $twin"]();
        } finally {
            $manager->getDatabaseManager()->purge();
        }
    };
}
