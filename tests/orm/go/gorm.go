package main

import (
	"context"
	"database/sql"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"
)

type Author struct {
	ID    int
	Name  string
	Books []Book
}

type Book struct {
	ID       int
	Title    string
	AuthorID int
	Author   Author
	Chapters []Chapter
	Reviews  []Review
}

type Chapter struct {
	ID     int
	Title  string
	BookID int
}

type Review struct {
	ID     int
	Body   string
	BookID int
}

// commenting is a pool, or a transaction of one, that puts the tags of the request into each statement.
type commenting struct{ gorm.ConnPool }

func (pool commenting) QueryContext(ctx context.Context, sql string, values ...any) (*sql.Rows, error) {
	return pool.ConnPool.QueryContext(ctx, tagged(ctx, sql), values...)
}

func (pool commenting) QueryRowContext(ctx context.Context, sql string, values ...any) *sql.Row {
	return pool.ConnPool.QueryRowContext(ctx, tagged(ctx, sql), values...)
}

func (pool commenting) BeginTx(ctx context.Context, options *sql.TxOptions) (gorm.ConnPool, error) {
	transaction, err := pool.ConnPool.(gorm.TxBeginner).BeginTx(ctx, options)
	return &commentingTx{commenting{transaction}, transaction}, err
}

type commentingTx struct {
	commenting
	gorm.TxCommitter
}

// gormShop is GORM over pgx: any connection of the pool for each query, or one in a transaction. Its advice for
// PgBouncer is the simple protocol, for which pgx writes the values into the text.
func gormShop(inTransaction bool) (Shop, error) {
	config := &gorm.Config{Logger: logger.Default.LogMode(logger.Silent)}
	database, err := gorm.Open(postgres.New(postgres.Config{PreferSimpleProtocol: pooled()}), config)
	if err != nil {
		return nil, err
	}
	pool, err := database.DB()
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	wrapped := commenting{database.Statement.ConnPool}
	database.ConnPool, database.Statement.ConnPool = wrapped, wrapped
	pages := map[string]func(through *gorm.DB) ([]Row, error){
		"many-to-one sick": func(through *gorm.DB) ([]Row, error) {
			var books []Book
			err := through.Order("id").Limit(bookCount).Find(&books).Error
			rows := []Row{}
			for _, book := range books {
				var author Author
				if err := through.First(&author, book.AuthorID).Error; err != nil {
					return nil, err
				}
				rows = append(rows, Row{book.Title, author.Name})
			}
			return rows, err
		},
		"many-to-one cured": func(through *gorm.DB) ([]Row, error) {
			var books []Book
			err := through.Preload("Author").Order("id").Limit(bookCount).Find(&books).Error
			rows := []Row{}
			for _, book := range books {
				rows = append(rows, Row{book.Title, book.Author.Name})
			}
			return rows, err
		},
		"one-to-many sick": func(through *gorm.DB) ([]Row, error) {
			var books []Book
			err := through.Order("id").Limit(bookCount).Find(&books).Error
			rows := []Row{}
			for _, book := range books {
				if err := through.Model(&book).Association("Chapters").Find(&book.Chapters); err != nil {
					return nil, err
				}
				rows = append(rows, chapterRows(book)...)
			}
			return rows, err
		},
		"one-to-many cured": func(through *gorm.DB) ([]Row, error) {
			var books []Book
			err := through.Preload("Chapters").Order("id").Limit(bookCount).Find(&books).Error
			rows := []Row{}
			for _, book := range books {
				rows = append(rows, chapterRows(book)...)
			}
			return rows, err
		},
		"nested sick": func(through *gorm.DB) ([]Row, error) {
			var authors []Author
			err := through.Order("id").Limit(authorCount).Find(&authors).Error
			rows := []Row{}
			for _, author := range authors {
				if err := through.Where("author_id = ?", author.ID).Find(&author.Books).Error; err != nil {
					return nil, err
				}
				for index, book := range author.Books {
					reviews := &author.Books[index].Reviews
					if err := through.Where(&Review{BookID: book.ID}).Find(reviews).Error; err != nil {
						return nil, err
					}
				}
				rows = append(rows, reviewRows(author)...)
			}
			return rows, err
		},
		"nested cured": func(through *gorm.DB) ([]Row, error) {
			var authors []Author
			err := through.Preload("Books.Reviews").Order("id").Limit(authorCount).Find(&authors).Error
			rows := []Row{}
			for _, author := range authors {
				rows = append(rows, reviewRows(author)...)
			}
			return rows, err
		},
	}
	return func(scenario, twin string) Page {
		page := pages[scenario+" "+twin]
		return func(ctx context.Context) (rows []Row, err error) {
			if !inTransaction {
				return page(database.WithContext(ctx))
			}
			err = database.WithContext(ctx).Transaction(func(through *gorm.DB) error {
				rows, err = page(through)
				return err
			})
			return rows, err
		}
	}, nil
}

func chapterRows(book Book) []Row {
	rows := []Row{}
	for _, chapter := range book.Chapters {
		rows = append(rows, Row{book.Title, chapter.Title})
	}
	return rows
}

func reviewRows(author Author) []Row {
	rows := []Row{}
	for _, book := range author.Books {
		for _, review := range book.Reviews {
			rows = append(rows, Row{author.Name, book.Title, review.Body})
		}
	}
	return rows
}
