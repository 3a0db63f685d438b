// What uploads are compared with: `@tus/server` with its file store. Usage: node tus-server.mjs FOLDER; prints its address.
import { FileStore } from '@tus/file-store'
import { Server } from '@tus/server'

const server = new Server({ path: '/files', datastore: new FileStore({ directory: process.argv[2] }) })
const http = server.listen({ host: '127.0.0.1', port: 0 }, () => {
  console.log(`http://127.0.0.1:${http.address().port}/files`)
})
