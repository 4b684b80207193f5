// What the shops on Node.js share: the tags of the request that is being answered.
import { AsyncLocalStorage } from 'node:async_hooks'
import pg from 'pg'

export const BOOKS = 20
export const AUTHORS = 10
export const CONNECTIONS = 4

export const request = new AsyncLocalStorage()

/** The tags of the request that this is called in; undefined where it is not to be tagged. */
export const tags = () => request.getStore()

/** The inside of a comment with these tags. */
export const comment = (tags) => Object.entries(tags).map(([key, value]) => `${key}='${value}'`).join(',')

/** A statement with the comment of the request that it belongs to. */
export const tagged = (sql) => (tags() && !sql.includes("/*request_id=") ? `${sql} /*${comment(tags())}*/` : sql)

/**
 * Every statement of node-postgres gets the tags of its request, as instrumentations do it for ORMs that have no place
 * for comments. The pool runs a query that had to wait in the context of whoever gave the client back: its own method
 * puts tags in first.
 */
export function tagEverything() {
  for (const type of [pg.Client, pg.Pool]) {
    const query = type.prototype.query
    type.prototype.query = function (sql, ...rest) {
      if (typeof sql === 'string') return query.call(this, tagged(sql), ...rest)
      if (typeof sql?.submit !== 'function' && sql?.text) sql = { ...sql, text: tagged(sql.text) }
      return query.call(this, sql, ...rest)
    }
  }
}
