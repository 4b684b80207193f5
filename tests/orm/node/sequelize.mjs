// Sequelize: any connection for each query, or one in a transaction. It writes the values of reads into their text.
import { DataTypes, Sequelize } from 'sequelize'
import { AUTHORS, BOOKS, CONNECTIONS, tagEverything } from './tags.mjs'

function models(database) {
  const id = { type: DataTypes.INTEGER, primaryKey: true }
  const reference = (field) => ({ type: DataTypes.INTEGER, field })
  const text = DataTypes.TEXT
  const define = (name, tableName, columns) => database.define(name, { id, ...columns }, { tableName, timestamps: false })

  const Author = define('Author', 'authors', { name: text })
  const Book = define('Book', 'books', { title: text, authorId: reference('author_id') })
  const Chapter = define('Chapter', 'chapters', { title: text, bookId: reference('book_id') })
  const Review = define('Review', 'reviews', { body: text, bookId: reference('book_id') })
  Author.hasMany(Book, { as: 'books', foreignKey: 'authorId' })
  Book.belongsTo(Author, { as: 'author', foreignKey: 'authorId' })
  Book.hasMany(Chapter, { as: 'chapters', foreignKey: 'bookId' })
  Book.hasMany(Review, { as: 'reviews', foreignKey: 'bookId' })
  return { Author, Book, Chapter, Review }
}

function pages({ Author, Book, Chapter, Review }) {
  const books = (more) => Book.findAll({ order: ['id'], limit: BOOKS, ...more })
  const authors = (more) => Author.findAll({ order: ['id'], limit: AUTHORS, ...more })

  return {
    'many-to-one': {
      async sick(through) {
        const rows = []
        for (const book of await books(through)) {
          rows.push([book.title, (await book.getAuthor(through)).name])
        }
        return rows
      },
      cured: async (through) =>
        (await books({ ...through, include: 'author' })).map((book) => [book.title, book.author.name]),
    },
    'one-to-many': {
      async sick(through) {
        const rows = []
        for (const book of await books(through)) {
          for (const chapter of await book.getChapters(through)) rows.push([book.title, chapter.title])
        }
        return rows
      },
      async cured(through) {
        const found = await books({ ...through, include: { model: Chapter, as: 'chapters', separate: true } })
        return found.flatMap((book) => book.chapters.map((chapter) => [book.title, chapter.title]))
      },
    },
    nested: {
      async sick(through) {
        const rows = []
        for (const author of await authors(through)) {
          for (const book of await author.getBooks(through)) {
            for (const review of await book.getReviews(through)) rows.push([author.name, book.title, review.body])
          }
        }
        return rows
      },
      async cured(through) {
        const include = { model: Book, as: 'books', include: { model: Review, as: 'reviews' } }
        const found = await authors({ ...through, include })
        return found.flatMap((author) =>
          author.books.flatMap((book) => book.reviews.map((review) => [author.name, book.title, review.body])),
        )
      },
    },
  }
}

export function sequelize(inTransaction) {
  tagEverything()
  const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: name } = process.env
  const pool = { max: CONNECTIONS, acquire: 60_000 }
  const database = new Sequelize(name, username, '', { host, port, dialect: 'postgres', logging: false, pool })
  const all = pages(models(database))
  return (scenario, twin) => {
    const rows = all[scenario][twin]
    return inTransaction ? () => database.transaction((transaction) => rows({ transaction })) : () => rows({})
  }
}
