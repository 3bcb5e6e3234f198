// What Express reads: `node express.mjs FOLDER PACKAGE`, the folder of node_modules and the package of Express in it.
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
const [folder, name] = process.argv.slice(2)
const express = createRequire(folder + '/')(name)

const hex = (text) => Buffer.from(text, 'utf8').toString('hex')
function written (value) {
  if (value === null || value === undefined) return null
  if (typeof value === 'boolean') return value
  if (typeof value === 'number') return { n: String(value) }
  if (typeof value === 'string') return { s: hex(value) }
  if (Array.isArray(value)) return value.map(written)
  if (typeof value === 'object') return { o: Object.keys(value).map((key) => [hex(key), written(value[key])]) }
  return { s: hex(typeof value) }
}

const all = () => true
const limit = '8mb'
const app = express()
const extended = express()
extended.set('query parser', 'extended')
const simple = express()
simple.set('query parser', 'simple')
const answer = (req, res) => res.json({ read: written(req.body) })
const query = (req, res) => res.json({ read: written(req.query) })
app.post('/usual', express.json({ limit }), express.urlencoded({ extended: true, limit }), answer)
app.post('/simple', express.json({ limit }), express.urlencoded({ extended: false, limit }), answer)
app.post('/json', express.json({ type: ['json', '+json'], limit }), answer)
app.post('/any-json', express.json({ type: all, limit }), answer)
app.post('/any-form', express.urlencoded({ type: all, extended: true, limit }), answer)
app.post('/text', express.text({ type: all, limit }), (req, res) => res.json({ read: written(JSON.parse(req.body)) }))
app.post('/merged', express.json({ limit }), express.urlencoded({ extended: true, limit }), (req, res) => {
  if (req.body === undefined) return res.status(415).json({})
  const read = Object.assign({}, req.body)
  const polluted = {}
  for (const key in read) polluted[key] = read[key] // what a prototype brings is there, too
  res.json({ read: written(polluted) })
})
extended.get('/query-extended', query)
simple.get('/query-simple', query)
for (const one of [app, extended, simple]) one.use((error, req, res, next) => res.status(error.status || 400).json({ refused: String(error.message) }))
const asked = (url) => (url.startsWith('/query-extended') ? extended : url.startsWith('/query-simple') ? simple : app)
const server = createServer((req, res) => asked(req.url)(req, res))
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
