// Express as it is, which ignores the case of paths: `node express.mjs FOLDER`, the folder of node_modules. It prints its port.
import { createRequire } from 'node:module'
const express = createRequire(process.argv[2] + '/')('express')
const app = express()
app.get('/public/admin/:name', (request, response) => response.send(`admin ${request.params.name}`))
app.get('/public/:name', (request, response) => response.send(`public ${request.params.name}`))
const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))
