// The shop of tests/orm/shops.py on Node.js: a list of books with the names of their authors, sick (a query a row) and
// cured.
//
//     node shop.mjs ORM DRIVER PORT [--tagged] [--pooled]
//
// serves `/sick` and `/cured` on 127.0.0.1:PORT; the database is the one that the libpq variables name. `--tagged` puts
// each request's id into a comment, as sqlcommenter does. `--pooled` changes nothing: no statement here has a name.
import { AsyncLocalStorage } from 'node:async_hooks'
import { createServer } from 'node:http'
import { parseArgs } from 'node:util'

const BOOKS = 20 // as in shops.py
const CONNECTIONS = 4

const request = new AsyncLocalStorage()
let requests = 0

/** The tags of the request that this is called in; undefined where it is not to be marked. */
function tags() {
  const identity = request.getStore()
  return identity && { request_id: identity, route: '/books' }
}

/** The inside of a comment with these tags. */
const comment = (tags) => Object.entries(tags).map(([key, value]) => `${key}='${value}'`).join(',')

/** A statement with the comment of the request that it belongs to. */
const tagged = (sql) => (tags() ? `${sql} /*${comment(tags())}*/` : sql)

const BOOKS_SQL = 'SELECT id, title, author_id FROM books ORDER BY id LIMIT $1'
const AUTHOR_SQL = 'SELECT id, name FROM authors WHERE id = $1'

async function pool() {
  const { default: pg } = await import('pg')
  return new pg.Pool({ max: CONNECTIONS })
}

/** A client of the pool for the whole request. */
async function nodePostgres() {
  const clients = await pool()

  async function page(names) {
    const client = await clients.connect()
    try {
      const books = await client.query(tagged(BOOKS_SQL), [BOOKS])
      return await names(client, books.rows)
    } finally {
      client.release()
    }
  }

  return {
    sick: () =>
      page(async (client, books) => {
        const names = []
        for (const book of books) {
          const author = await client.query(tagged(AUTHOR_SQL), [book.author_id])
          names.push(author.rows[0].name)
        }
        return names
      }),
    cured: () =>
      page(async (client, books) => {
        const ids = books.map((book) => book.author_id)
        const authors = await client.query(tagged('SELECT id, name FROM authors WHERE id = ANY($1)'), [ids])
        const names = new Map(authors.rows.map((author) => [author.id, author.name]))
        return books.map((book) => names.get(book.author_id))
      }),
  }
}

/** Any client of the pool for each query, all of a request's at once. */
async function nodePostgresAll() {
  const clients = await pool()
  // The pool runs a query that had to wait in the context of whoever gave the client back: tags are put in before.
  const query = (sql, ...values) => clients.query(tagged(sql), values)

  return {
    async sick() {
      const books = await query(BOOKS_SQL, BOOKS)
      const authors = await Promise.all(books.rows.map((book) => query(AUTHOR_SQL, book.author_id)))
      return authors.map((author) => author.rows[0].name)
    },
    async cured() {
      const books = await query(
        'SELECT b.id, b.title, a.name FROM books b JOIN authors a ON a.id = b.author_id ORDER BY b.id LIMIT $1',
        BOOKS,
      )
      return books.rows.map((book) => book.name)
    },
  }
}

async function knex() {
  const { default: make } = await import('knex')
  const database = make({ client: 'pg', connection: {}, pool: { min: 0, max: CONNECTIONS } })
  database.on('start', (builder) => {
    if (tags()) builder.comment(comment(tags()))
  })
  return database
}

/** The names of a page, through Knex or one of its transactions. */
async function knexSick(through) {
  const names = []
  for (const book of await through('books').orderBy('id').limit(BOOKS)) {
    const author = await through('authors').where('id', book.author_id).first()
    names.push(author.name)
  }
  return names
}

async function knexCured(through) {
  const books = through('books').join('authors', 'authors.id', 'books.author_id')
  const rows = await books.select('books.id', 'books.title', 'authors.name').orderBy('books.id').limit(BOOKS)
  return rows.map((row) => row.name)
}

/** Any connection of the pool for each query. */
async function knexPool() {
  const database = await knex()
  return { sick: () => knexSick(database), cured: () => knexCured(database) }
}

async function knexTransaction() {
  const database = await knex()
  return { sick: () => database.transaction(knexSick), cured: () => database.transaction(knexCured) }
}

async function prisma() {
  const { PrismaPg } = await import('@prisma/adapter-pg')
  const { default: generated } = await import('./generated/index.js')
  const adapter = new PrismaPg({ max: CONNECTIONS })
  return new generated.PrismaClient({ adapter, comments: [() => tags() ?? {}] })
}

/** The names of a page, through Prisma or one of its transactions. */
async function prismaSick(through) {
  const names = []
  for (const book of await through.book.findMany({ orderBy: { id: 'asc' }, take: BOOKS })) {
    const author = await through.author.findUniqueOrThrow({ where: { id: book.authorId } })
    names.push(author.name)
  }
  return names
}

async function prismaCured(through) {
  const books = await through.book.findMany({ orderBy: { id: 'asc' }, take: BOOKS, include: { author: true } })
  return books.map((book) => book.author.name)
}

/** Any connection of the pool for each query. */
async function prismaPool() {
  const client = await prisma()
  return { sick: () => prismaSick(client), cured: () => prismaCured(client) }
}

async function prismaTransaction() {
  const client = await prisma()
  // Six requests and four connections: some wait for theirs, on a busy machine.
  const patience = { maxWait: 30_000, timeout: 30_000 }
  return { sick: () => client.$transaction(prismaSick, patience), cured: () => client.$transaction(prismaCured, patience) }
}

const SHOPS = {
  'node-postgres': nodePostgres,
  'node-postgres-all': nodePostgresAll,
  knex: knexPool,
  'knex-transaction': knexTransaction,
  prisma: prismaPool,
  'prisma-transaction': prismaTransaction,
}

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { tagged: { type: 'boolean' }, pooled: { type: 'boolean' } },
})
const [orm, , port] = positionals
const pages = await SHOPS[orm]()

const server = createServer(async (asked, answer) => {
  const page = asked.url === '/cured' ? pages.cured : pages.sick
  const identity = values.tagged ? `r${process.pid}-${++requests}` : ''
  try {
    const names = await request.run(identity, page)
    answer.writeHead(200, { 'content-type': 'text/plain' }).end(names.join('\n'))
  } catch (error) {
    answer.writeHead(500, { 'content-type': 'text/plain' }).end(String(error.stack))
  }
})
server.listen(Number(port), '127.0.0.1', () => console.log('ready'))
