// What `GET /v1/games/{id}` is compared with: Fastify with a response schema and pg with a prepared statement.
// Usage: node read-fastify.mjs DATABASE_URL CONNECTIONS; prints its port.
import Fastify from 'fastify'
import pg from 'pg'

const [url, connections] = process.argv.slice(2)
const pool = new pg.Pool({ connectionString: url, max: Number(connections) })
const app = Fastify()
const text = { type: 'string' }
const maybe = { type: 'string', nullable: true }
const properties = {
  id: text, title: text, publisher: maybe, released_on: maybe, url: maybe, created_at: text, updated_at: text
}
app.get('/v1/games/:id', { schema: { response: { 200: { type: 'object', properties } } } }, async (request, reply) => {
  const found = await pool.query({
    name: 'game',
    text: `select id, title, publisher, released_on::text, url, created_at, updated_at from games where id = $1`,
    values: [request.params.id]
  })
  return found.rows[0] ?? reply.code(404).send({ title: 'Resource not found' })
})
const address = await app.listen({ port: 0, host: '127.0.0.1' })
console.log(address)
