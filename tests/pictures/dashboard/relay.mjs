// A path with delay and faults in front of a reflector of this host: many kernels have no netem.
// Arguments: the address and port to listen on, and the port of the reflector. Messages from mesh.mjs
// set the faults for the requests of one source address.

import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';

const [address, port, reflector] = process.argv.slice(2);
const paths = new Map();
// The socket towards the reflector of each peer, in the order of their first requests.
const peers = new Map();
let front;

const happens = (share) => Math.random() < (share ?? 0);
// Milliseconds: most replies are fast, and a few are slow.
const late = (delay, { jitter }) => sleep(delay - jitter * Math.log(1 - Math.random()));

function open() {
  front = createSocket('udp4', forward);
  front.bind(Number(port), address);
}

function peer({ address, port }) {
  const name = `${address} ${port}`;
  if (!peers.has(name)) {
    const flow = [...peers.keys()].filter((other) => other.startsWith(`${address} `)).length;
    const socket = createSocket('udp4');
    socket.on('message', async (reply) => {
      const path = paths.get(address);
      const times = happens(path.duplicates) ? 2 : 1;
      await late(path.backward, path);
      // A closed port drops the reply.
      for (let time = 0; time < times; time++) front?.send(reply, port, address);
    });
    peers.set(name, { flow, socket });
  }
  return peers.get(name);
}

async function forward(request, from) {
  const path = paths.get(from.address);
  if (!path) return;
  const { flow, socket } = peer(from);
  if (flow === path.broken || happens(path.loss)) return;
  await late(path.forward, path);
  socket.send(request, Number(reflector), '127.0.0.1');
}

process.on('message', ({ from, closed, ...path }) => {
  if (from) paths.set(from, { ...paths.get(from), ...path });
  if (closed) {
    front.close();
    front = undefined;
  } else if (closed === false) open();
});
open();
