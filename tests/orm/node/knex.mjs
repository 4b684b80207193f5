// Knex, which builds queries: any connection for each, or one in a transaction.
import make from 'knex'
import { AUTHORS, BOOKS, comment, CONNECTIONS, tags } from './tags.mjs'

const authors = (through) => through('authors').orderBy('id').limit(AUTHORS)
const books = (through) => through('books').orderBy('id').limit(BOOKS)

const PAGES = {
  'many-to-one': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        const author = await through('authors').where('id', book.author_id).first()
        rows.push([book.title, author.name])
      }
      return rows
    },
    async cured(through) {
      const found = through('books').join('authors', 'authors.id', 'books.author_id')
      const rows = await found.select('books.title', 'authors.name').orderBy('books.id').limit(BOOKS)
      return rows.map((row) => [row.title, row.name])
    },
  },
  'one-to-many': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        for (const chapter of await through('chapters').where({ book_id: book.id })) {
          rows.push([book.title, chapter.title])
        }
      }
      return rows
    },
    async cured(through) {
      const found = await books(through)
      const titles = new Map(found.map((book) => [book.id, book.title]))
      const chapters = await through('chapters').whereIn('book_id', [...titles.keys()])
      return chapters.map((chapter) => [titles.get(chapter.book_id), chapter.title])
    },
  },
  nested: {
    async sick(through) {
      const rows = []
      for (const author of await authors(through)) {
        for (const book of await through('books').where({ author_id: author.id })) {
          for (const review of await through('reviews').where({ book_id: book.id })) {
            rows.push([author.name, book.title, review.body])
          }
        }
      }
      return rows
    },
    async cured(through) {
      const names = new Map((await authors(through)).map((author) => [author.id, author.name]))
      const found = await through('books').whereIn('author_id', [...names.keys()])
      const known = new Map(found.map((book) => [book.id, book]))
      const reviews = await through('reviews').whereIn('book_id', [...known.keys()])
      return reviews.map((review) => {
        const book = known.get(review.book_id)
        return [names.get(book.author_id), book.title, review.body]
      })
    },
  },
}

export function knex(inTransaction) {
  const database = make({ client: 'pg', connection: {}, pool: { min: 0, max: CONNECTIONS } })
  database.on('start', (builder) => {
    if (tags()) builder.comment(comment(tags()))
  })
  return (scenario, twin) => {
    const rows = PAGES[scenario][twin]
    return inTransaction ? () => database.transaction(rows) : () => rows(database)
  }
}
