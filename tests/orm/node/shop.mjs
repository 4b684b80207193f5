// The shop in each ORM of Node.js, under a real server that this program sends its own requests.
//
//     node shop.mjs ORM DRIVER SCENARIO TWIN
//
// Enters and leaves: what tests/orm/matrix.py says of every shop's program. No statement here has a name.
import { createServer } from 'node:http'
import { request } from './tags.mjs'

const pick = (pages) => (scenario, twin) => pages[scenario][twin]

const SHOPS = {
  'node-postgres': async () => pick((await import('./pg.mjs')).onePerRequest()),
  'node-postgres-all': async () => pick((await import('./pg.mjs')).anyForEach()),
  knex: async (inTransaction) => (await import('./knex.mjs')).knex(inTransaction),
  prisma: async (inTransaction) => (await import('./prisma.mjs')).prisma(inTransaction),
  typeorm: async (inTransaction) => (await import('./typeorm.mjs')).typeorm(inTransaction),
  sequelize: async (inTransaction) => (await import('./sequelize.mjs')).sequelize(inTransaction),
  drizzle: async (inTransaction) => (await import('./drizzle.mjs')).drizzle(inTransaction),
  objection: async (inTransaction) => (await import('./objection.mjs')).objection(inTransaction),
}
const IN_TRANSACTION = '-transaction'

const [orm, , scenario, twin] = process.argv.slice(2)
const inTransaction = orm.endsWith(IN_TRANSACTION)
const shop = await SHOPS[inTransaction ? orm.slice(0, -IN_TRANSACTION.length) : orm](inTransaction)
const page = shop(scenario, twin)
let requests = 0

const server = createServer(async (asked, answer) => {
  const tags = { request_id: `r${process.pid}-${++requests}`, route: `/${scenario}` }
  try {
    const rows = await request.run(process.env.SHOP_TAGGED ? tags : undefined, page)
    answer.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(rows))
  } catch (error) {
    answer.writeHead(500, { 'content-type': 'text/plain' }).end(String(error.stack))
  }
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))

let left = Number(process.env.SHOP_REQUESTS)
async function visitor() {
  while (left-- > 0) {
    const answer = await fetch(`http://127.0.0.1:${server.address().port}/`)
    const text = await answer.text()
    if (!answer.ok) throw new Error(text)
    console.log(text)
  }
}
await Promise.all(Array.from({ length: Number(process.env.SHOP_AT_ONCE) }, visitor))
