// Publishes on a DHT of bittorrent-dht nodes by those and by pkbridge, and reads by both. All is on loopback,
// and knows nobody else. See ../bittorrent-dht-check.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import crypto from 'node:crypto'
import { mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

import DHT from 'bittorrent-dht'

const NODES = 24
const BOOTSTRAP = 3 // nodes that pkbridge is told
const GOOD_HOLDERS = 8 // both mean to put an item on 20 nodes; those that do not answer take places
const REPLY_TIMEOUT = 500 // milliseconds; pkbridge's nodes ask and do not answer, and yet stand in tables
const START_TIMEOUT = 60_000 // milliseconds; for a loaded machine
const FIRST_SEQ = 1_767_225_600_000_000 // microseconds of Unix time, as publishers count
const ALPHABET = 'ybndrfg8ejkmcpqxot1uwisza345h769' // z-base-32
// For debug builds of pkbridge, as .cargo/config.toml says.
const environment = { ...process.env, RUST_MIN_STACK: String(8 << 20) }

/** A public key as OpenSSL takes it (RFC 8410). */
function publicKey (bytes) {
  const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), bytes])
  return crypto.createPublicKey({ key: der, format: 'der', type: 'spki' })
}

/** What bittorrent-dht needs to take mutable items. */
function verify (signature, message, key) {
  return crypto.verify(null, message, publicKey(key), signature)
}

function z32 (bytes) {
  let bits = BigInt('0x' + bytes.toString('hex')) << 4n // 52 characters are 260 bits
  let text = ''
  for (let at = 0; at < 52; at++) {
    text = ALPHABET[Number(bits & 31n)] + text
    bits >>= 5n
  }
  return text
}

/** A key pair made from a text, the same in each run. */
class Secret {
  constructor (text) {
    this.seed = crypto.createHash('sha256').update(text).digest()
    const der = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), this.seed])
    this.private = crypto.createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
    const spki = crypto.createPublicKey(this.private).export({ format: 'der', type: 'spki' })
    this.key = spki.subarray(-32)
    this.name = z32(this.key)
    this.target = crypto.createHash('sha1').update(this.key).digest()
  }

  /** What bittorrent-dht puts: a DNS message with one TXT record, at `v` below the key. */
  item (seq, text) {
    const label = (text) => [Buffer.from([text.length]), Buffer.from(text)]
    const fixed = Buffer.alloc(10) // type, class, TTL, length
    fixed.writeUInt16BE(16, 0)
    fixed.writeUInt16BE(1, 2)
    fixed.writeUInt32BE(1, 4)
    fixed.writeUInt16BE(text.length + 1, 8)
    const header = Buffer.from('000080000000000100000000', 'hex') // a reply with one answer
    const owner = [...label('v'), ...label(this.name), Buffer.from([0])]
    const v = Buffer.concat([header, ...owner, fixed, ...label(text)])
    return { k: this.key, seq, v, sign: (message) => crypto.sign(null, message, this.private) }
  }
}

/** The nodes. */
class Network {
  static async start () {
    const network = new Network()
    network.nodes = []
    for (let number = 0; number < NODES; number++) {
      const bootstrap = number === 0 ? false : [network.address(0)]
      const node = new DHT({ bootstrap, verify, timeout: REPLY_TIMEOUT })
      network.nodes.push(node)
      const ready = new Promise((resolve) => node.once('ready', resolve))
      const listening = new Promise((resolve) => node.listen(0, '127.0.0.1', resolve))
      await Promise.all([ready, listening])
    }
    return network
  }

  address (number) {
    return `127.0.0.1:${this.nodes[number].address().port}`
  }

  /** Puts an item; resolves to the number of nodes that took it, and rejects if none did. */
  put (item) {
    const node = this.nodes[0]
    return new Promise((resolve, reject) => {
      node.put(item, (error, _, count) => error ? reject(error) : resolve(count))
    })
  }

  /** What another node finds. */
  get (secret) {
    const node = this.nodes[NODES - 1]
    return promisify(node.get.bind(node))(secret.target, { cache: false })
  }

  /** The numbers of the nodes that hold an item of this `seq`. */
  holders (secret, seq) {
    const target = secret.target.toString('hex')
    return [...this.nodes.keys()].filter((number) => this.nodes[number].toJSON().values[target]?.seq === seq)
  }

  close () {
    return Promise.all(this.nodes.map((node) => promisify(node.destroy.bind(node))()))
  }
}

/** pkbridge's commands, and its server. */
class Bridge {
  constructor (binary, port, directory) {
    Object.assign(this, { binary, port, directory })
    this.config = path.join(directory, 'pkbridge.toml')
    this.log = path.join(directory, 'log')
  }

  configure (network) {
    const bootstrap = Array.from({ length: BOOTSTRAP }, (_, number) => network.address(number))
    return writeFile(this.config, `
      [listen]
      addresses = ["127.0.0.1:${this.port}"]
      [upstream]
      servers = ["127.0.66.254:53"]  # nobody is there
      [dht]
      bootstrap = ${JSON.stringify(bootstrap)}
      bind-address = "127.0.0.1"
      packet-min-ttl = "0s"
      [state]
      directory = ""
      [control]
      socket = ""
    `)
  }

  /** Runs a command to its end; resolves to its exit code, its JSON object, and its complaints. */
  async run (...command) {
    const child = spawn(this.binary, [...command, '--json'], { env: environment })
    const [output, errors] = [child.stdout, child.stderr].map((stream) => stream.toArray())
    const code = await new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    })
    const text = Buffer.concat(await output).toString()
    return { code, report: text ? JSON.parse(text) : null, errors: Buffer.concat(await errors).toString() }
  }

  /** Publishes a TXT record at `v` below the key. */
  async publish (secret, text) {
    const [zone, key] = ['zone', 'key'].map((file) => path.join(this.directory, file))
    await writeFile(zone, `v 1 TXT "${text}"\n`)
    await writeFile(key, secret.seed.toString('hex'), { mode: 0o600 })
    const ended = await this.run('publish', zone, '--key', key, '--config', this.config)
    assert.equal(ended.code, 0, ended.errors)
    return ended.report
  }

  async resolve (secret) {
    const ended = await this.run('resolve', secret.name, '--config', this.config)
    assert.equal(ended.code, 0, ended.errors)
    return ended.report
  }

  /** The text at `v` below the key, from the server. */
  async ask (secret) {
    const server = `127.0.0.1:${this.port}`
    const { report } = await this.run('query', '--server', server, `v.${secret.name}.pkarr`, 'TXT')
    return report?.answers?.map((record) => record.data).join()
  }

  async serve () {
    const log = await open(this.log, 'w')
    const stdio = ['ignore', log.fd, log.fd]
    this.server = spawn(this.binary, ['serve', '--config', this.config], { stdio, env: environment })
    this.ended = new Promise((resolve) => this.server.once('close', resolve))
    await log.close()
    // Answered by pkbridge itself, without the network.
    const isUp = async () => {
      assert.equal(this.server.exitCode, null, 'pkbridge has ended')
      const server = `127.0.0.1:${this.port}`
      return (await this.run('query', '--server', server, 'localhost', 'A')).code === 0
    }
    await until('pkbridge answers', isUp)
  }

  async close () {
    this.server?.kill()
    await this.ended
  }
}

async function until (what, isSo) {
  const deadline = Date.now() + START_TIMEOUT
  while (!await isSo()) {
    assert.ok(Date.now() < deadline, `not in time: ${what}`)
    await sleep(50)
  }
}

const checks = {
  async 'names published by bittorrent-dht are found by pkbridge' (network, bridge) {
    const secret = new Secret('theirs')
    const item = secret.item(FIRST_SEQ, 'Hello from bittorrent-dht')
    const taken = await network.put(item)
    assert.ok(taken >= GOOD_HOLDERS, `${taken} nodes took it`)
    const found = await bridge.resolve(secret)
    assert.equal(found.packet.seq, FIRST_SEQ)
    assert.equal(found.packet.records[0].data, 'Hello from bittorrent-dht')
    assert.ok(found.held.newest >= GOOD_HOLDERS, JSON.stringify(found.held))
    assert.equal(await bridge.ask(secret), 'Hello from bittorrent-dht')
  },

  async 'names published by pkbridge are found by bittorrent-dht' (network, bridge) {
    const secret = new Secret('ours')
    const report = await bridge.publish(secret, 'Hello from pkbridge')
    assert.equal(report.replaces_seq, null)
    assert.ok(Math.min(report.stored, report.holders) >= GOOD_HOLDERS, JSON.stringify(report))
    const packet = Buffer.from(report.signed_packet_hex, 'hex') // key, signature, seq, message
    const { k, sig, seq, v } = await network.get(secret)
    const found = [k, sig, v].map((part) => Buffer.from(part).toString('hex'))
    assert.deepEqual(found, [[0, 32], [32, 96], [104]].map((part) => packet.subarray(...part).toString('hex')))
    assert.equal(seq, report.seq)
    assert.equal(await bridge.ask(secret), 'Hello from pkbridge')
  },

  async 'each replaces what the other has published, and only what it has seen' (network, bridge) {
    const secret = new Secret('both')
    await network.put(secret.item(FIRST_SEQ, 'theirs'))
    const ours = await bridge.publish(secret, 'ours')
    assert.equal(ours.replaces_seq, FIRST_SEQ)
    assert.equal((await network.get(secret)).seq, ours.seq)
    const holders = network.holders(secret, ours.seq)
    assert.ok(holders.length >= GOOD_HOLDERS, `${holders.length} nodes hold it`)
    // A node that missed ours has reason to take this one, so that the put as a whole may succeed.
    const late = { ...secret.item(ours.seq + 1, 'late'), cas: FIRST_SEQ }
    await network.put(late).catch((error) => assert.equal(error.code, 301))
    assert.deepEqual(network.holders(secret, ours.seq), holders)
    await network.put({ ...secret.item(ours.seq + 2, 'theirs again'), cas: ours.seq })
    assert.equal(await bridge.ask(secret), 'theirs again')
  }
}

async function main () {
  const [binary, port = '5331'] = process.argv.slice(2)
  if (!binary) {
    console.error('usage: bittorrent-dht-check BINARY [PORT]')
    return 2
  }
  const directory = await mkdtemp(path.join(tmpdir(), 'bittorrent-dht-check-'))
  const network = await Network.start()
  const bridge = new Bridge(path.resolve(binary), port, directory)
  let failed = 0
  try {
    await bridge.configure(network)
    await bridge.serve()
    for (const [name, check] of Object.entries(checks)) {
      const began = Date.now()
      try {
        await check(network, bridge)
        console.log(`ok ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
      } catch (error) {
        failed++
        console.log(`FAILED ${name}: ${error.stack}`)
      }
    }
  } catch (error) {
    failed++
    console.log(`FAILED before the checks: ${error.stack}`)
  } finally {
    await bridge.close()
    await network.close()
    if (failed) console.log(`--- the end of pkbridge's log\n${(await readFile(bridge.log, 'utf8')).slice(-2000)}`)
    await rm(directory, { recursive: true })
  }
  return failed ? 1 : 0
}

process.exitCode = await main()
