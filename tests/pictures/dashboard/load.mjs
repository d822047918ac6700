// Three daemons under load, and a Prometheus that scrapes them.

import { execFileSync, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const { ROOT, UDP_ECHO } = process.env;
const EXCHANGE = 9999;
const ECHO = 9998;
const STAMP = 9997;
const RATE_LIMIT = 400;
// Datagrams per second to the daemon in echo mode, each for the same time.
const RATES = [80, 160, 320, 360, 240];
// One STAMP request of this many is lost, in the same parts of the time.
const LOST = [200, 100, 40, 60, 150];
// A firewall rejects replies to this port.
const BLOCKED = 5555;

export const start = (program, ...options) =>
  spawn(program, options, { stdio: ['ignore', 'ignore', 'inherit'] });
const daemon = (port, http, ...options) =>
  start(UDP_ECHO, '--log=error', `--listen=127.0.0.1:${port}`, `--metrics-listen=127.0.0.1:${http}`,
    ...options);
const exchange = () =>
  daemon(EXCHANGE, 9862, '--timestamps', '--recv-buffer=64KiB', '--timeout=2s', '--max-peers=100');
const echo = () => daemon(ECHO, 9863, '--mode=echo', `--rate-limit=${RATE_LIMIT}`);
const stamp = () => daemon(STAMP, 9864, '--mode=stamp', '--stamp-clock=1ms', '--max-peers=3');
const probe = (port, mode, ...options) =>
  start(UDP_ECHO, 'probe', `127.0.0.1:${port}`, '--mode', mode, ...options);

// With the scrape configuration of the package.
export async function prometheus() {
  const targets = [9862, 9863, 9864].map((port) => `- 127.0.0.1:${port}`);
  const text = readFileSync(`${ROOT}/packaging/prometheus/scrape.yml`, 'utf8')
    .replaceAll('/usr/share/udp-echo', `${ROOT}/packaging`)
    .replace('- 127.0.0.1:9862', targets.join('\n          '));
  await watch(text);
}

export async function watch(configuration) {
  writeFileSync('prometheus.yml', configuration);
  start('prometheus', '--log.level=error', '--config.file=prometheus.yml',
    '--storage.tsdb.path=data', '--web.listen-address=127.0.0.1:9090');
  const ready = () => fetch('http://127.0.0.1:9090/-/ready').then(({ ok }) => ok, () => false);
  while (!(await ready())) await sleep(100);
}

async function send(from, sizes) {
  const socket = createSocket('udp4');
  await new Promise((bound) => socket.bind(from, '127.0.0.1', bound));
  for (const size of sizes) {
    await new Promise((sent) => socket.send(Buffer.alloc(size), EXCHANGE, '127.0.0.1', sent));
    await sleep(20);
  }
  socket.close();
}

// Sends 20 STAMP requests per second, numbered from 0. Of `every` requests, one is missing, two are
// swapped, and one is sent twice.
async function measure(socket, every, seconds) {
  const request = (sequence) => {
    const bytes = Buffer.alloc(44);
    bytes.writeUInt32BE(sequence);
    socket.send(bytes, STAMP, '127.0.0.1');
  };
  const end = Date.now() + 1000 * seconds;
  for (let sequence = 0; Date.now() < end; sequence++) {
    const fault = sequence % every;
    if (fault === 4) request(sequence);
    if (fault === 2) request(sequence + 1);
    if (fault !== 1) request(sequence);
    if (fault === 2) sequence++;
    await sleep(50);
  }
}

// While the daemon is stopped, its receive buffer overflows.
async function overflow(daemon) {
  daemon.kill('SIGSTOP');
  probe(EXCHANGE, 'echo', '--rate=2000', '--duration=0.5');
  await sleep(1000);
  daemon.kill('SIGCONT');
}

async function restart(daemon) {
  const exit = new Promise((resolve) => daemon.once('exit', resolve));
  daemon.kill();
  await exit;
  return exchange();
}

// Returns the start and the end, in seconds.
export async function load(minutes) {
  execFileSync('nft', ['add table ip t; ' +
    'add chain ip t out { type filter hook output priority 0; }; ' +
    `add rule ip t out udp dport ${BLOCKED} drop`]);
  rmSync('data', { recursive: true, force: true });
  await prometheus();
  const from = Math.floor(Date.now() / 1000);
  await sleep(5000);
  let first = exchange();
  echo();
  stamp();
  const senders = Array.from({ length: 3 }, () => createSocket('udp4'));
  await sleep(1000);
  const part = (60 * minutes) / RATES.length;
  probe(EXCHANGE, 'exchange', '--rate=150', '--flows=30', `--duration=${60 * minutes}`);
  for (const [round, rate] of RATES.entries()) {
    const rest = sleep(1000 * part);
    probe(ECHO, 'echo', `--rate=${rate}`, '--size=600', `--duration=${part}`);
    for (const sender of senders) measure(sender, LOST[round], part - 1);
    // The table of sessions is full: these requests have no session.
    if (round === 1) measure(createSocket('udp4'), LOST[round], 0.5);
    await sleep(200 * part);
    // An empty and a short record, a datagram that is truncated, a low port and a blocked one.
    await send(0, [100, 0, 100, 5, 1400, 30]);
    await send(1000, Array(20 * (round + 1)).fill(100));
    await send(BLOCKED, Array(10).fill(100));
    if (round % 2 === 0) await overflow(first);
    if (round > 2) probe(ECHO, 'echo', `--rate=${RATE_LIMIT}`, '--duration=2');
    // More peers than the table has space for. None sends a record.
    if (round === 3) await Promise.all(Array.from({ length: 150 }, () => send(0, [100])));
    await sleep(200 * part);
    if (round === 2) first = await restart(first);
    await rest;
  }
  return [from, Math.ceil(Date.now() / 1000)];
}
