// Three hosts with a monitor and a reflector each, on paths with faults, and a Prometheus that
// scrapes the monitors. Needs a network and a mount namespace of its own.

import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { start, watch } from './load.mjs';

const { ROOT, UDP_ECHO } = process.env;
// Milliseconds from the host of the row to that of the column.
const DELAY = {
  ams1: { fra1: 4, lon1: 5 },
  fra1: { ams1: 4, lon1: 12 },
  lon1: { ams1: 5, fra1: 7 },
};
const HOSTS = Object.keys(DELAY);
const SWITCH = '10.77.0.254';
const STAMP = 862;
const REFLECTOR = 9001;
const FLOWS = 8;
// Share of the requests from fra1 to lon1 that are lost, each for the same time.
const LOSS = [0.002, 0.005, 0.03, 0.08, 0.02];

const address = (host) => `10.77.0.${1 + HOSTS.indexOf(host)}`;
const others = (host) => HOSTS.filter((other) => other !== host);
const run = (...command) => execFileSync(command[0], command.slice(1));
const inside = (host, ...command) => ['nsenter', `--net=/run/netns/${host}`, ...command];

// With the scrape configuration of the package. The label of each monitor is the name of its host.
export async function prometheus() {
  const hosts = HOSTS.map((host) => `- targets: ["${address(host)}:9863"]
        labels: {instance: ${host}}`);
  const text = readFileSync(`${ROOT}/packaging/prometheus/monitor.scrape.yml`, 'utf8')
    .replaceAll('/usr/share/udp-echo', `${ROOT}/packaging`)
    .replace(/- targets:\n *- 127.0.0.1:9863/, hosts.join('\n      '));
  await watch(text);
}

function connect() {
  run('mount', '-t', 'tmpfs', 'tmpfs', '/run');
  run('ip', 'link', 'add', 'br0', 'type', 'bridge');
  run('ip', 'address', 'add', `${SWITCH}/24`, 'dev', 'br0');
  run('ip', 'link', 'set', 'br0', 'up');
  for (const host of HOSTS) {
    run('ip', 'netns', 'add', host);
    run('ip', '-n', host, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', host, 'netns', '1');
    run('ip', 'link', 'set', host, 'master', 'br0', 'up');
    run('ip', '-n', host, 'address', 'add', `${address(host)}/24`, 'dev', 'eth0');
    for (const link of ['lo', 'eth0']) run('ip', '-n', host, 'link', 'set', link, 'up');
    run(...inside(host, 'nft', 'add table ip t; ' +
      'add chain ip t out { type filter hook output priority 0; }'));
    hops(host, 3);
  }
  // A firewall that drops the requests to old1.
  run('nft', 'add table ip t; add chain ip t in { type filter hook input priority 0; }; ' +
    'add rule ip t in udp dport 9998 drop');
}

// Replies of a host look as if they had come over this number of routers.
const hops = (host, number) => run(...inside(host, 'nft',
  `flush chain ip t out; add rule ip t out udp sport ${STAMP} ip ttl set ${64 - number}`));

function monitor(host) {
  const target = (name, to, more) =>
    `[[target]]\nname = "${name}"\naddress = "${to}"\n${more}\n`;
  const stamp = `mode = "stamp"\nflows = ${FLOWS}\nper_flow = true\ninterval = "100ms"`;
  const targets = others(host).map((other) => target(other, address(other), stamp));
  targets.push(target('gw1', `${SWITCH}:7`, 'mode = "echo"\ninterval = "100ms"'));
  if (host === 'fra1') targets.push(target('old1', `${SWITCH}:9998`, 'mode = "echo"'));
  if (host === 'lon1') targets.push(target('new1', 'new1.example.org', 'mode = "echo"'));
  writeFileSync(`${host}.toml`, targets.join(''));
  return start(...inside(host, UDP_ECHO, 'monitor', '--log=error', '--metrics-listen=0.0.0.0:9863',
    '--config', `${host}.toml`));
}

// Returns the relay of a host.
function reflector(host) {
  start(...inside(host, UDP_ECHO, '--log=error', '--mode=stamp', `--listen=127.0.0.1:${REFLECTOR}`,
    '--metrics-listen=none'));
  const [nsenter, ...rest] = inside(host, process.execPath, '../relay.mjs', address(host),
    `${STAMP}`, `${REFLECTOR}`);
  const relay = spawn(nsenter, rest, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  for (const other of others(host)) {
    relay.send({ from: address(other), forward: DELAY[other][host], backward: DELAY[host][other],
      jitter: 0.3 });
  }
  return relay;
}

// The path from one host to another becomes slower or faster, for requests and for replies.
function delay(relays, from, to, more, jitter) {
  relays[to].send({ from: address(from), forward: DELAY[from][to] + more, jitter });
  relays[from].send({ from: address(to), backward: DELAY[from][to] + more, jitter });
}

// Returns the start and the end, in seconds.
export async function load(minutes) {
  connect();
  rmSync('data', { recursive: true, force: true });
  mkdirSync('data');
  await prometheus();
  const relays = Object.fromEntries(HOSTS.map((host) => [host, reflector(host)]));
  start(UDP_ECHO, '--log=error', '--mode=echo', `--listen=${SWITCH}:7`, '--metrics-listen=none');
  await sleep(1000);
  const from = Math.floor(Date.now() / 1000);
  const monitors = Object.fromEntries(HOSTS.map((host) => [host, monitor(host)]));
  const part = (1000 * 60 * minutes) / LOSS.length;
  for (const [round, loss] of LOSS.entries()) {
    relays.lon1.send({ from: address('fra1'), loss });
    await sleep(part / 3);
    // One of several equal paths from ams1 to fra1 breaks.
    if (round === 1) relays.fra1.send({ from: address('ams1'), broken: 5 });
    if (round === 3) relays.fra1.send({ from: address('ams1'), broken: null });
    // Another, slower route from lon1 to ams1.
    if (round === 2) hops('lon1', 5);
    if (round === 2) delay(relays, 'lon1', 'ams1', 9, 2);
    if (round === 4) hops('lon1', 3);
    if (round === 4) delay(relays, 'lon1', 'ams1', 0, 0.3);
    // A switch that repeats some replies.
    if (round === 0) relays.ams1.send({ from: address('fra1'), duplicates: 0.02 });
    if (round === 1) relays.ams1.send({ from: address('fra1'), duplicates: 0 });
    await sleep(part / 3);
    // The reflector of ams1 restarts.
    if (round === 0) relays.ams1.send({ closed: true });
    if (round === 0) setTimeout(() => relays.ams1.send({ closed: false }), part / 8);
    // A local firewall, and a process that does not run for a moment.
    if (round === 3) run(...inside('fra1', 'nft', `add rule ip t out ip daddr ${address('ams1')} drop`));
    if (round === 3) setTimeout(() => hops('fra1', 3), part / 8);
    if (round === 1) monitors.lon1.kill('SIGSTOP');
    if (round === 1) setTimeout(() => monitors.lon1.kill('SIGCONT'), 3000);
    await sleep(part / 3);
  }
  return [from, Math.ceil(Date.now() / 1000)];
}
