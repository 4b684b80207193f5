// node-postgres alone.
import pg from 'pg'
import { AUTHORS, BOOKS, CONNECTIONS, tagged } from './tags.mjs'

const LIST = 'SELECT id, title, author_id FROM books ORDER BY id LIMIT $1'
const AUTHOR_LIST = 'SELECT id, name FROM authors ORDER BY id LIMIT $1'

/** A client of the pool for the whole request. */
export function onePerRequest() {
  const clients = new pg.Pool({ max: CONNECTIONS })

  const page = (rows) => async () => {
    const client = await clients.connect()
    try {
      return await rows(async (sql, ...values) => (await client.query(tagged(sql), values)).rows)
    } finally {
      client.release()
    }
  }

  return {
    'many-to-one': {
      sick: page(async (query) => {
        const rows = []
        for (const book of await query(LIST, BOOKS)) {
          const [author] = await query('SELECT id, name FROM authors WHERE id = $1', book.author_id)
          rows.push([book.title, author.name])
        }
        return rows
      }),
      cured: page(async (query) => {
        const books = await query(LIST, BOOKS)
        const ids = books.map((book) => book.author_id)
        const authors = await query('SELECT id, name FROM authors WHERE id = ANY($1)', ids)
        const names = new Map(authors.map((author) => [author.id, author.name]))
        return books.map((book) => [book.title, names.get(book.author_id)])
      }),
    },
    'one-to-many': {
      sick: page(async (query) => {
        const rows = []
        for (const book of await query(LIST, BOOKS)) {
          for (const chapter of await query('SELECT id, title FROM chapters WHERE book_id = $1', book.id)) {
            rows.push([book.title, chapter.title])
          }
        }
        return rows
      }),
      cured: page(chaptersCured),
    },
    nested: {
      sick: page(async (query) => {
        const rows = []
        for (const author of await query(AUTHOR_LIST, AUTHORS)) {
          for (const book of await query('SELECT id, title FROM books WHERE author_id = $1', author.id)) {
            for (const review of await query('SELECT id, body FROM reviews WHERE book_id = $1', book.id)) {
              rows.push([author.name, book.title, review.body])
            }
          }
        }
        return rows
      }),
      cured: page(reviewsCured),
    },
  }
}

async function chaptersCured(query) {
  const books = await query(LIST, BOOKS)
  const ids = books.map((book) => book.id)
  const titles = new Map(books.map((book) => [book.id, book.title]))
  const chapters = await query('SELECT id, book_id, title FROM chapters WHERE book_id = ANY($1)', ids)
  return chapters.map((chapter) => [titles.get(chapter.book_id), chapter.title])
}

async function reviewsCured(query) {
  const sql =
    'SELECT a.name, b.title, r.body FROM (SELECT id, name FROM authors ORDER BY id LIMIT $1) a ' +
    'JOIN books b ON b.author_id = a.id JOIN reviews r ON r.book_id = b.id'
  return (await query(sql, AUTHORS)).map((row) => [row.name, row.title, row.body])
}

/** Any client of the pool for each query, all of a request's at once. */
export function anyForEach() {
  const clients = new pg.Pool({ max: CONNECTIONS })
  // The pool runs a query that had to wait in the context of whoever gave the client back: tags are put in before.
  const query = async (sql, ...values) => (await clients.query(tagged(sql), values)).rows

  return {
    'many-to-one': {
      async sick() {
        const books = await query(LIST, BOOKS)
        const author = (book) => query('SELECT id, name FROM authors WHERE id = $1', book.author_id)
        return Promise.all(books.map(async (book) => [book.title, (await author(book))[0].name]))
      },
      async cured() {
        const books = await query(
          'SELECT b.id, b.title, a.name FROM books b JOIN authors a ON a.id = b.author_id ORDER BY b.id LIMIT $1',
          BOOKS,
        )
        return books.map((book) => [book.title, book.name])
      },
    },
    'one-to-many': {
      async sick() {
        const books = await query(LIST, BOOKS)
        const chapters = (book) => query('SELECT id, title FROM chapters WHERE book_id = $1', book.id)
        const rows = async (book) => (await chapters(book)).map((chapter) => [book.title, chapter.title])
        return (await Promise.all(books.map(rows))).flat()
      },
      cured: () => chaptersCured(query),
    },
    nested: {
      async sick() {
        const reviews = async (author, book) => {
          const found = await query('SELECT id, body FROM reviews WHERE book_id = $1', book.id)
          return found.map((review) => [author.name, book.title, review.body])
        }
        const rows = async (author) => {
          const books = await query('SELECT id, title FROM books WHERE author_id = $1', author.id)
          return (await Promise.all(books.map((book) => reviews(author, book)))).flat()
        }
        return (await Promise.all((await query(AUTHOR_LIST, AUTHORS)).map(rows))).flat()
      },
      cured: () => reviewsCured(query),
    },
  }
}
