"""The loop of the reference server, for the tests to compare the daemon with.

    python3 reference_server.py HOST PORT TIMEOUT

Prints the port that it is bound to, waits until its standard input is closed, so that all
datagrams can be queued before it receives, and prints how it ended. Like the reference server it
exits with status 1 unless an empty datagram ended it.
"""

import socket
import struct
import sys

RECORD = struct.Struct("! I 2s Q 2h f")


def serve(sock: socket.socket) -> None:
    """Echoes a datagram, decodes the next, and so on, until the one to echo is empty."""
    while True:
        data, peer = sock.recvfrom(1024)
        if not data:
            return
        sock.sendto(data, peer)
        data, _ = sock.recvfrom(RECORD.size)
        if data:
            RECORD.unpack(data)


def main() -> int:
    host, port, timeout = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, int(port)))
        print(sock.getsockname()[1], flush=True)
        sys.stdin.read()
        sock.settimeout(float(timeout))
        try:
            serve(sock)
        except TimeoutError:
            print("timeout")
        except struct.error:
            print("decode-error")
        else:
            print("empty")
            return 0
    return 1


sys.exit(main())
