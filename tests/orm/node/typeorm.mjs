// TypeORM: any connection for each query, or one in a transaction.
import 'reflect-metadata'
import { DataSource, EntitySchema } from 'typeorm'
import { AUTHORS, BOOKS, CONNECTIONS, tagEverything } from './tags.mjs'

const column = (type, name) => ({ type, name })
const id = { type: 'int', primary: true }
const one = (target, name, inverseSide) => ({ type: 'many-to-one', target, joinColumn: { name }, inverseSide })
const many = (target, inverseSide) => ({ type: 'one-to-many', target, inverseSide })

const entities = [
  new EntitySchema({
    name: 'Author',
    tableName: 'authors',
    columns: { id, name: column('text') },
    relations: { books: many('Book', 'author') },
  }),
  new EntitySchema({
    name: 'Book',
    tableName: 'books',
    columns: { id, title: column('text'), authorId: column('int', 'author_id') },
    relations: {
      author: one('Author', 'author_id', 'books'),
      chapters: many('Chapter', 'book'),
      reviews: many('Review', 'book'),
    },
  }),
  new EntitySchema({
    name: 'Chapter',
    tableName: 'chapters',
    columns: { id, title: column('text'), bookId: column('int', 'book_id') },
    relations: { book: one('Book', 'book_id', 'chapters') },
  }),
  new EntitySchema({
    name: 'Review',
    tableName: 'reviews',
    columns: { id, body: column('text'), bookId: column('int', 'book_id') },
    relations: { book: one('Book', 'book_id', 'reviews') },
  }),
]

// `query` loads a relation with a query for all rows, as people choose for lists.
const list = (manager, name, take, relations) =>
  manager.getRepository(name).find({ order: { id: 'ASC' }, take, relations, relationLoadStrategy: 'query' })
const books = (manager, relations) => list(manager, 'Book', BOOKS, relations)
const authors = (manager, relations) => list(manager, 'Author', AUTHORS, relations)

const PAGES = {
  'many-to-one': {
    async sick(manager) {
      const rows = []
      for (const book of await books(manager)) {
        const author = await manager.getRepository('Author').findOneByOrFail({ id: book.authorId })
        rows.push([book.title, author.name])
      }
      return rows
    },
    cured: async (manager) => (await books(manager, { author: true })).map((book) => [book.title, book.author.name]),
  },
  'one-to-many': {
    async sick(manager) {
      const rows = []
      for (const book of await books(manager)) {
        for (const chapter of await manager.getRepository('Chapter').findBy({ book: { id: book.id } })) {
          rows.push([book.title, chapter.title])
        }
      }
      return rows
    },
    cured: async (manager) =>
      (await books(manager, { chapters: true })).flatMap((book) =>
        book.chapters.map((chapter) => [book.title, chapter.title]),
      ),
  },
  nested: {
    async sick(manager) {
      const rows = []
      for (const author of await authors(manager)) {
        // What a lazy relation sends.
        const found = manager.createQueryBuilder().relation('Author', 'books').of(author)
        for (const book of await found.loadMany()) {
          for (const review of await manager.createQueryBuilder().relation('Book', 'reviews').of(book).loadMany()) {
            rows.push([author.name, book.title, review.body])
          }
        }
      }
      return rows
    },
    cured: async (manager) =>
      (await authors(manager, { books: { reviews: true } })).flatMap((author) =>
        author.books.flatMap((book) => book.reviews.map((review) => [author.name, book.title, review.body])),
      ),
  },
}

export async function typeorm(inTransaction) {
  tagEverything()
  const { PGHOST: host, PGPORT: port, PGUSER: username, PGDATABASE: database } = process.env
  const source = new DataSource({
    type: 'postgres',
    ...{ host, port: Number(port), username, database, entities, poolSize: CONNECTIONS },
  })
  await source.initialize()
  return (scenario, twin) => {
    const rows = PAGES[scenario][twin]
    return inTransaction ? () => source.transaction(rows) : () => rows(source.manager)
  }
}
