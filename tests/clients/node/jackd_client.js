// Every call of jackd (npm), against the server on DJQS_PORT.
'use strict'
const assert = require('assert')
const Jackd = require('jackd')

const at = { host: '127.0.0.1', port: Number(process.env.DJQS_PORT) }

async function main() {
  const client = await new Jackd().connect(at)
  assert(client.isConnected())
  assert.strictEqual(await client.listTubeUsed(), 'default')
  assert.strictEqual(await client.use('mail'), 'mail')
  assert.strictEqual(await client.getCurrentTube(), 'mail')
  assert.strictEqual(await client.watch('mail'), 2)
  assert.strictEqual(await client.ignore('default'), 1)
  await assert.rejects(client.ignore('mail'), /NOT_IGNORED/)
  assert.strictEqual(await client.listTubesWatched(), '---\n- mail\n')

  const first = await client.put('first', { priority: 5, ttr: 100 })
  const second = await client.put({ task: 'second' }, { priority: 4 })
  const third = await client.put('third\r\n\0', { delay: 100 })
  assert.deepStrictEqual([first, second, third], ['1', '2', '3'])

  let job = await client.reserve()
  assert.deepStrictEqual([job.id, JSON.parse(job.payload)], [second, { task: 'second' }])
  await client.touch(second)
  await client.release(second, { priority: 9, delay: 0 })
  job = await client.reserveWithTimeout(5)
  assert.strictEqual(job.id, first)
  await client.bury(first, 3)
  assert.strictEqual((await client.peekBuried()).id, first)
  assert.strictEqual(await client.kick(10), 1)
  job = await client.reserveJob(third)
  assert.strictEqual(job.payload.toString(), 'third\r\n\0')
  await client.release(third, { delay: 60 })
  assert.strictEqual((await client.peekDelayed()).id, third)
  await client.kickJob(third)
  await assert.rejects(client.kickJob(third), /NOT_FOUND/)
  assert.strictEqual((await client.peekReady()).id, third)
  assert.strictEqual((await client.peek(first)).payload.toString(), 'first')
  await assert.rejects(client.peek('99'), /NOT_FOUND/)

  assert.match(await client.statsJob(first), /^---\nid: 1\ntube: "mail"\nstate: ready\npri: 3\n/)
  assert.match(await client.statsTube('mail'), /current-jobs-ready: 3\n/)
  assert.match(await client.stats(), /total-jobs: 3\n/)
  assert.strictEqual(await client.listTubes(), '---\n- default\n- mail\n')
  // It forgets the end of this line, so that it has to come with the number.
  await client.pauseTube('mail', { delay: '60\r\n' })
  await assert.rejects(client.reserveWithTimeout(0), /TIMED_OUT/)
  await client.pauseTube('mail', { delay: '0\r\n' })

  // One by one, since it does not read several replies with bodies that come at once; then sent ahead.
  const ids = []
  while (ids.length < 3) ids.push((await client.reserve()).id)
  assert.deepStrictEqual(ids, [third, first, second])
  await Promise.all(ids.map(id => client.delete(id)))
  await assert.rejects(client.delete(first), /NOT_FOUND/)

  // One that waits is served by another's put.
  const other = await new Jackd({ useLegacyStringPayloads: true }).connect(at)
  const waiting = client.reserve()
  await other.use('mail')
  await other.put('fourth')
  assert.strictEqual((await waiting).id, '4')
  await client.quit()
  await other.watch('mail')
  assert.strictEqual((await other.reserve()).payload, 'fourth')
  await other.close()
  await (await new Jackd().connect(at)).disconnect()
  console.log('jackd: every call')
}

// Node ends in silence where nothing is left to wait for.
process.exitCode = 1
main().then(() => (process.exitCode = 0), console.error)
