// Drizzle: any connection for each query, or one in a transaction.
import { asc, eq, relations } from 'drizzle-orm'
import { drizzle as make } from 'drizzle-orm/node-postgres'
import { integer, pgTable, text } from 'drizzle-orm/pg-core'
import pg from 'pg'
import { AUTHORS, BOOKS, CONNECTIONS, tagEverything } from './tags.mjs'

const id = () => integer().primaryKey()
const authors = pgTable('authors', { id: id(), name: text() })
const books = pgTable('books', { id: id(), title: text(), authorId: integer('author_id') })
const chapters = pgTable('chapters', { id: id(), title: text(), bookId: integer('book_id') })
const reviews = pgTable('reviews', { id: id(), body: text(), bookId: integer('book_id') })

const schema = {
  ...{ authors, books, chapters, reviews },
  ofAuthors: relations(authors, ({ many }) => ({ books: many(books) })),
  ofBooks: relations(books, ({ one, many }) => ({
    author: one(authors, { fields: [books.authorId], references: [authors.id] }),
    chapters: many(chapters),
    reviews: many(reviews),
  })),
  ofChapters: relations(chapters, ({ one }) => ({
    book: one(books, { fields: [chapters.bookId], references: [books.id] }),
  })),
  ofReviews: relations(reviews, ({ one }) => ({
    book: one(books, { fields: [reviews.bookId], references: [books.id] }),
  })),
}

const bookList = (through, more) => through.query.books.findMany({ orderBy: asc(books.id), limit: BOOKS, with: more })
const authorList = (through, more) =>
  through.query.authors.findMany({ orderBy: asc(authors.id), limit: AUTHORS, with: more })

const PAGES = {
  'many-to-one': {
    async sick(through) {
      const rows = []
      for (const book of await through.select().from(books).orderBy(books.id).limit(BOOKS)) {
        const [author] = await through.select().from(authors).where(eq(authors.id, book.authorId))
        rows.push([book.title, author.name])
      }
      return rows
    },
    cured: async (through) =>
      (await bookList(through, { author: true })).map((book) => [book.title, book.author.name]),
  },
  'one-to-many': {
    async sick(through) {
      const rows = []
      for (const book of await bookList(through)) {
        for (const chapter of await through.query.chapters.findMany({ where: eq(chapters.bookId, book.id) })) {
          rows.push([book.title, chapter.title])
        }
      }
      return rows
    },
    cured: async (through) =>
      (await bookList(through, { chapters: true })).flatMap((book) =>
        book.chapters.map((chapter) => [book.title, chapter.title]),
      ),
  },
  nested: {
    async sick(through) {
      const rows = []
      for (const author of await authorList(through)) {
        for (const book of await through.select().from(books).where(eq(books.authorId, author.id))) {
          for (const review of await through.select().from(reviews).where(eq(reviews.bookId, book.id))) {
            rows.push([author.name, book.title, review.body])
          }
        }
      }
      return rows
    },
    cured: async (through) =>
      (await authorList(through, { books: { with: { reviews: true } } })).flatMap((author) =>
        author.books.flatMap((book) => book.reviews.map((review) => [author.name, book.title, review.body])),
      ),
  },
}

export function drizzle(inTransaction) {
  tagEverything()
  const database = make({ client: new pg.Pool({ max: CONNECTIONS }), schema })
  return (scenario, twin) => {
    const rows = PAGES[scenario][twin]
    return inTransaction ? () => database.transaction(rows) : () => rows(database)
  }
}
