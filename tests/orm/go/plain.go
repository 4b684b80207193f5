package main

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/lib/pq"
)

// query reads all rows of a statement; each has an integer first, which is 0 where the statement has none, then a text.
type query func(ctx context.Context, sql string, value any) ([]found, error)

type found struct {
	id, reference int
	text          string
}

const (
	bookList   = "SELECT id, author_id, title FROM books ORDER BY id LIMIT $1"
	authorList = "SELECT id, 0 AS none, name FROM authors ORDER BY id LIMIT $1"
)

// all are the pages of a driver, which runs each through one request's queries.
func all(scenario, twin string) func(ctx context.Context, read query) ([]Row, error) {
	return map[string]func(ctx context.Context, read query) ([]Row, error){
		"many-to-one sick":  writtenSick,
		"many-to-one cured": writtenCured,
		"one-to-many sick":  chaptersSick,
		"one-to-many cured": chaptersCured,
		"nested sick":       reviewsSick,
		"nested cured":      reviewsCured,
	}[scenario+" "+twin]
}

func writtenSick(ctx context.Context, read query) ([]Row, error) {
	books, err := read(ctx, bookList, bookCount)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, book := range books {
		authors, err := read(ctx, "SELECT id, 0 AS none, name FROM authors WHERE id = $1", book.reference)
		if err != nil {
			return nil, err
		}
		rows = append(rows, Row{book.text, authors[0].text})
	}
	return rows, nil
}

func writtenCured(ctx context.Context, read query) ([]Row, error) {
	books, err := read(ctx, bookList, bookCount)
	if err != nil {
		return nil, err
	}
	references := []int64{}
	for _, book := range books {
		references = append(references, int64(book.reference))
	}
	authors, err := read(ctx, "SELECT id, 0 AS none, name FROM authors WHERE id = ANY($1)", references)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, author := range authors {
		names[author.id] = author.text
	}
	rows := []Row{}
	for _, book := range books {
		rows = append(rows, Row{book.text, names[book.reference]})
	}
	return rows, nil
}

func chaptersSick(ctx context.Context, read query) ([]Row, error) {
	books, err := read(ctx, bookList, bookCount)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, book := range books {
		chapters, err := read(ctx, "SELECT id, book_id, title FROM chapters WHERE book_id = $1", book.id)
		if err != nil {
			return nil, err
		}
		for _, chapter := range chapters {
			rows = append(rows, Row{book.text, chapter.text})
		}
	}
	return rows, nil
}

func chaptersCured(ctx context.Context, read query) ([]Row, error) {
	books, err := read(ctx, bookList, bookCount)
	if err != nil {
		return nil, err
	}
	titles, ids := known(books)
	chapters, err := read(ctx, "SELECT id, book_id, title FROM chapters WHERE book_id = ANY($1)", ids)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, chapter := range chapters {
		rows = append(rows, Row{titles[chapter.reference].text, chapter.text})
	}
	return rows, nil
}

func reviewsSick(ctx context.Context, read query) ([]Row, error) {
	authors, err := read(ctx, authorList, authorCount)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, author := range authors {
		books, err := read(ctx, "SELECT id, author_id, title FROM books WHERE author_id = $1", author.id)
		if err != nil {
			return nil, err
		}
		for _, book := range books {
			reviews, err := read(ctx, "SELECT id, book_id, body FROM reviews WHERE book_id = $1", book.id)
			if err != nil {
				return nil, err
			}
			for _, review := range reviews {
				rows = append(rows, Row{author.text, book.text, review.text})
			}
		}
	}
	return rows, nil
}

func reviewsCured(ctx context.Context, read query) ([]Row, error) {
	authors, err := read(ctx, authorList, authorCount)
	if err != nil {
		return nil, err
	}
	names, ids := known(authors)
	books, err := read(ctx, "SELECT id, author_id, title FROM books WHERE author_id = ANY($1)", ids)
	if err != nil {
		return nil, err
	}
	titles, ids := known(books)
	reviews, err := read(ctx, "SELECT id, book_id, body FROM reviews WHERE book_id = ANY($1)", ids)
	if err != nil {
		return nil, err
	}
	rows := []Row{}
	for _, review := range reviews {
		book := titles[review.reference]
		rows = append(rows, Row{names[book.reference].text, book.text, review.text})
	}
	return rows, nil
}

func known(list []found) (map[int]found, []int64) {
	byID, ids := map[int]found{}, []int64{}
	for _, one := range list {
		byID[one.id] = one
		ids = append(ids, int64(one.id))
	}
	return byID, ids
}

// rows is what *sql.Rows and pgx.Rows have in common.
type rows interface {
	Next() bool
	Scan(into ...any) error
	Err() error
}

func collected(list rows) ([]found, error) {
	result := []found{}
	for list.Next() {
		var one found
		if err := list.Scan(&one.id, &one.reference, &one.text); err != nil {
			return nil, err
		}
		result = append(result, one)
	}
	return result, list.Err()
}

// libpq is lib/pq through database/sql: any connection of the pool for each query, or one in a transaction. It prepares
// each statement in a round trip of its own, but for `binary_parameters`, which it has for PgBouncer.
func libpq(inTransaction bool) (Shop, error) {
	dsn := ""
	if pooled() {
		dsn = "binary_parameters=yes"
	}
	database, err := sql.Open("postgres", dsn)
	if err != nil {
		return nil, err
	}
	database.SetMaxOpenConns(connections)
	database.SetMaxIdleConns(connections)
	type queryer interface {
		QueryContext(ctx context.Context, sql string, values ...any) (*sql.Rows, error)
	}
	through := func(one queryer) query {
		return func(ctx context.Context, sql string, value any) ([]found, error) {
			if ids, is := value.([]int64); is {
				value = pq.Array(ids)
			}
			list, err := one.QueryContext(ctx, tagged(ctx, sql), value)
			if err != nil {
				return nil, err
			}
			defer list.Close()
			return collected(list)
		}
	}
	return func(scenario, twin string) Page {
		page := all(scenario, twin)
		return func(ctx context.Context) ([]Row, error) {
			if !inTransaction {
				return page(ctx, through(database))
			}
			transaction, err := database.BeginTx(ctx, nil)
			if err != nil {
				return nil, err
			}
			defer transaction.Rollback()
			result, err := page(ctx, through(transaction))
			if err != nil {
				return nil, err
			}
			return result, transaction.Commit()
		}
	}, nil
}

// pgxShop is pgx with its own pool: any connection for each query, or one in a transaction. It prepares each statement
// once a connection, by name, but for `exec`, which it has for PgBouncer.
func pgxShop(inTransaction bool) (Shop, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	if pooled() {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	type queryer interface {
		Query(ctx context.Context, sql string, values ...any) (pgx.Rows, error)
	}
	through := func(one queryer) query {
		return func(ctx context.Context, sql string, value any) ([]found, error) {
			list, err := one.Query(ctx, tagged(ctx, sql), value)
			if err != nil {
				return nil, err
			}
			defer list.Close()
			return collected(list)
		}
	}
	return func(scenario, twin string) Page {
		page := all(scenario, twin)
		return func(ctx context.Context) (result []Row, err error) {
			if !inTransaction {
				return page(ctx, through(pool))
			}
			err = pgx.BeginFunc(ctx, pool, func(transaction pgx.Tx) error {
				result, err = page(ctx, through(transaction))
				return err
			})
			return result, err
		}
	}, nil
}
