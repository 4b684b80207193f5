// What `prisma generate` does, by the packages beneath it: the command itself downloads an engine that nothing here needs.
//
//     node generate.mjs
//
// Enters: schema.prisma of this folder. Leaves: the client in ./generated.
import { createRequire } from 'node:module'

// Their ES modules do not load in Node.js.
const require = createRequire(import.meta.url)
const { getGenerator, loadSchemaContext } = require('@prisma/internals')
const { PrismaClientJsGenerator } = require('@prisma/client-generator-js')

const cliCommand = 'node generate.mjs'
const generator = await getGenerator({
  schemaContext: await loadSchemaContext({ schemaPath: { cliProvidedPath: 'schema.prisma' } }),
  registry: { 'prisma-client-js': { type: 'in-process', generator: new PrismaClientJsGenerator({ cliCommand }) } },
  cliCommand,
  skipDownload: true,
})
await generator.generate()
generator.stop()
