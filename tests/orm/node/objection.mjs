// Objection, over Knex: any connection for each query, or one in a transaction.
import make from 'knex'
import objection_ from 'objection'
import { AUTHORS, BOOKS, CONNECTIONS, tagEverything } from './tags.mjs'

const { Model } = objection_

class Author extends Model {
  static tableName = 'authors'
  static get relationMappings() {
    return { books: many(Book, 'authors.id', 'books.author_id') }
  }
}

class Book extends Model {
  static tableName = 'books'
  static get relationMappings() {
    const author = { relation: Model.BelongsToOneRelation, modelClass: Author }
    return {
      author: { ...author, join: { from: 'books.author_id', to: 'authors.id' } },
      chapters: many(Chapter, 'books.id', 'chapters.book_id'),
      reviews: many(Review, 'books.id', 'reviews.book_id'),
    }
  }
}

class Chapter extends Model {
  static tableName = 'chapters'
}

class Review extends Model {
  static tableName = 'reviews'
}

function many(modelClass, from, to) {
  return { relation: Model.HasManyRelation, modelClass, join: { from, to } }
}

const books = (through) => Book.query(through).orderBy('id').limit(BOOKS)
const authors = (through) => Author.query(through).orderBy('id').limit(AUTHORS)

const PAGES = {
  'many-to-one': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        const author = await book.$relatedQuery('author', through)
        rows.push([book.title, author.name])
      }
      return rows
    },
    cured: async (through) =>
      (await books(through).withGraphFetched('author')).map((book) => [book.title, book.author.name]),
  },
  'one-to-many': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        for (const chapter of await book.$relatedQuery('chapters', through)) rows.push([book.title, chapter.title])
      }
      return rows
    },
    cured: async (through) =>
      (await books(through).withGraphFetched('chapters')).flatMap((book) =>
        book.chapters.map((chapter) => [book.title, chapter.title]),
      ),
  },
  nested: {
    async sick(through) {
      const rows = []
      for (const author of await authors(through)) {
        for (const book of await author.$relatedQuery('books', through)) {
          for (const review of await book.$relatedQuery('reviews', through)) {
            rows.push([author.name, book.title, review.body])
          }
        }
      }
      return rows
    },
    cured: async (through) =>
      (await authors(through).withGraphFetched('books.reviews')).flatMap((author) =>
        author.books.flatMap((book) => book.reviews.map((review) => [author.name, book.title, review.body])),
      ),
  },
}

export function objection(inTransaction) {
  tagEverything()
  const database = make({ client: 'pg', connection: {}, pool: { min: 0, max: CONNECTIONS } })
  return (scenario, twin) => {
    const rows = PAGES[scenario][twin]
    return inTransaction ? () => database.transaction(rows) : () => rows(database)
  }
}
