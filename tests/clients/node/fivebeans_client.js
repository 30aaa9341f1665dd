// Every call of fivebeans (npm), and its worker, against the server on DJQS_PORT.
'use strict'
const assert = require('assert')
const fivebeans = require('fivebeans')

const [host, port] = ['127.0.0.1', Number(process.env.DJQS_PORT)]

function connect() {
  const client = new fivebeans.client(host, port)
  // A call as a promise of its results.
  client.do = (name, ...args) =>
    new Promise((resolve, reject) =>
      client[name](...args, (error, ...results) => (error ? reject(new Error(error)) : resolve(results)))
    )
  return new Promise((resolve, reject) => {
    client.on('connect', () => resolve(client)).on('error', reject)
    client.connect()
  })
}

async function main() {
  const client = await connect()
  assert.deepStrictEqual(await client.do('use', 'mail'), ['mail'])
  assert.deepStrictEqual(await client.do('list_tube_used'), ['mail'])
  assert.deepStrictEqual(await client.do('watch', 'mail'), ['2'])
  assert.deepStrictEqual(await client.do('ignore', 'default'), ['1'])
  await assert.rejects(client.do('ignore', 'mail'), /NOT_IGNORED/)
  assert.deepStrictEqual(await client.do('list_tubes_watched'), [['mail']])
  assert.deepStrictEqual(await client.do('list_tubes'), [['default', 'mail']])

  const body = Buffer.from([0, 255, 13, 10])
  assert.deepStrictEqual(await client.do('put', 5, 0, 60, 'first'), ['1'])
  assert.deepStrictEqual(await client.do('put', 6, 0, 60, body), ['2'])
  assert.deepStrictEqual(await client.do('put', 6, 100, 60, 'third'), ['3'])
  await assert.rejects(client.do('put', 6, 100, 60, 'x'.repeat(65536)), /JOB_TOO_BIG/)

  assert.deepStrictEqual(await client.do('reserve'), ['1', Buffer.from('first')])
  assert.deepStrictEqual(await client.do('touch', 1), [])
  assert.deepStrictEqual(await client.do('release', 1, 7, 0), [])
  assert.deepStrictEqual(await client.do('reserve_with_timeout', 5), ['2', body])
  assert.deepStrictEqual(await client.do('bury', 2, 4), [])
  assert.deepStrictEqual(await client.do('peek_buried'), ['2', body])
  assert.deepStrictEqual(await client.do('kick', 9), ['1'])
  assert.deepStrictEqual(await client.do('peek_delayed'), ['3', Buffer.from('third')])
  assert.deepStrictEqual(await client.do('kick_job', 3), [])
  await assert.rejects(client.do('kick_job', 3), /NOT_FOUND/)
  assert.deepStrictEqual(await client.do('peek_ready'), ['2', body])
  assert.deepStrictEqual(await client.do('peek', 1), ['1', Buffer.from('first')])
  await assert.rejects(client.do('peek', 99), /NOT_FOUND/)

  const [job] = await client.do('stats_job', 2)
  assert.deepStrictEqual([job.id, job.tube, job.state, job.pri], [2, 'mail', 'ready', 4])
  assert.deepStrictEqual([job.reserves, job.buries, job.kicks], [1, 1, 1])
  const [tube] = await client.do('stats_tube', 'mail')
  assert.deepStrictEqual([tube.name, tube['current-jobs-ready'], tube['current-using']], ['mail', 3, 1])
  const [stats] = await client.do('stats')
  assert.strictEqual(stats['total-jobs'], 3)
  assert.strictEqual(typeof stats.os, 'string')

  await client.do('pause_tube', 'mail', 60)
  await assert.rejects(client.do('reserve_with_timeout', 0), /TIMED_OUT/)
  await client.do('pause_tube', 'mail', 0)
  for (const id of [1, 2, 3]) {
    assert.deepStrictEqual(await client.do('destroy', id), [])
  }
  await assert.rejects(client.do('destroy', 1), /NOT_FOUND/)

  await work(client)
  const closed = new Promise(resolve => client.on('close', resolve))
  client.quit(() => {})
  await closed
  const last = await connect()
  const ended = new Promise(resolve => last.on('close', resolve))
  last.end()
  await ended
  console.log('fivebeans: every call, and its worker')
}

// The worker reserves, handles, and buries or deletes as its handler says.
async function work(client) {
  const handled = []
  const greet = {
    type: 'greet',
    work(payload, done) {
      handled.push(payload)
      done(payload === 'bad' ? 'bury' : 'success', 0)
    },
  }
  const worker = new fivebeans.worker({ id: 'w', host, port, handlers: { greet }, timeout: 1, ignoreDefault: true })
  await client.do('use', 'work')
  for (const payload of ['good', 'bad']) {
    await client.do('put', 0, 0, 60, JSON.stringify({ type: 'greet', payload }))
  }
  await new Promise((resolve, reject) => {
    let settled = 0
    const settle = () => ++settled === 2 && worker.stop()
    worker.on('error', reject).on('stopped', resolve).on('job.deleted', settle).on('job.buried', settle)
    worker.start(['work'])
  })
  assert.deepStrictEqual(handled, ['good', 'bad'])
  assert.strictEqual((await client.do('peek_buried'))[0], '5')
}

// Node ends in silence where nothing is left to wait for.
process.exitCode = 1
main().then(() => (process.exitCode = 0), error => {
  console.error(error)
  process.exit(1)
})
