// Prisma with the driver adapter for node-postgres: any connection for each query, or one in a transaction.
import { PrismaPg } from '@prisma/adapter-pg'
import generated from './generated/index.js'
import { AUTHORS, BOOKS, CONNECTIONS, tags } from './tags.mjs'

const books = (through, include) => through.book.findMany({ orderBy: { id: 'asc' }, take: BOOKS, include })
const authors = (through, include) => through.author.findMany({ orderBy: { id: 'asc' }, take: AUTHORS, include })

const PAGES = {
  'many-to-one': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        const author = await through.author.findUniqueOrThrow({ where: { id: book.authorId } })
        rows.push([book.title, author.name])
      }
      return rows
    },
    cured: async (through) =>
      (await books(through, { author: true })).map((book) => [book.title, book.author.name]),
  },
  'one-to-many': {
    async sick(through) {
      const rows = []
      for (const book of await books(through)) {
        for (const chapter of await through.chapter.findMany({ where: { bookId: book.id } })) {
          rows.push([book.title, chapter.title])
        }
      }
      return rows
    },
    cured: async (through) =>
      (await books(through, { chapters: true })).flatMap((book) =>
        book.chapters.map((chapter) => [book.title, chapter.title]),
      ),
  },
  nested: {
    async sick(through) {
      const rows = []
      for (const author of await authors(through)) {
        for (const book of await through.book.findMany({ where: { authorId: author.id } })) {
          for (const review of await through.review.findMany({ where: { bookId: book.id } })) {
            rows.push([author.name, book.title, review.body])
          }
        }
      }
      return rows
    },
    cured: async (through) =>
      (await authors(through, { books: { include: { reviews: true } } })).flatMap((author) =>
        author.books.flatMap((book) => book.reviews.map((review) => [author.name, book.title, review.body])),
      ),
  },
}

export function prisma(inTransaction) {
  const adapter = new PrismaPg({ max: CONNECTIONS })
  const client = new generated.PrismaClient({ adapter, comments: [() => tags() ?? {}] })
  // Six requests and four connections: some wait for theirs, on a busy machine.
  const patience = { maxWait: 30_000, timeout: 30_000 }
  return (scenario, twin) => {
    const rows = PAGES[scenario][twin]
    return inTransaction ? () => client.$transaction(rows, patience) : () => rows(client)
  }
}
