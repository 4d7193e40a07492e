#!/usr/bin/env python3
"""Relays DNS over UDP and shows the names that were asked, to see what a resolver in front sends.

Usage: udp-relay.py PORT TO-PORT SEEN
  PORT     relayed from 127.0.0.1:PORT ...
  TO-PORT  ... to 127.0.0.1:TO-PORT
  SEEN     the file that gets a line for each question: the name as it stood on the wire, and the type
"""

import selectors
import socket
import sys

HEADER = 12  # bytes of a DNS header
KEPT = 512  # questions that may be waiting for their answer


def question(message):
    """The name, in the case it has on the wire, and the type of the first question."""
    labels, at = [], HEADER
    while message[at]:
        length = message[at]
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "backslashreplace"))
        at += 1 + length
    return ".".join(labels) + ".", int.from_bytes(message[at + 1 : at + 3], "big")


def main():
    port, to_port, seen = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    selector = selectors.DefaultSelector()
    front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    front.bind(("127.0.0.1", port))
    selector.register(front, selectors.EVENT_READ)
    waiting = {}  # socket towards the server: the client that asked
    with open(seen, "w", encoding="ascii", buffering=1) as log:
        while True:
            for event, _ in selector.select():
                ready = event.fileobj
                if ready is front:
                    message, client = front.recvfrom(65535)
                    print(*question(message), file=log)
                    back = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    back.connect(("127.0.0.1", to_port))
                    back.send(message)
                    selector.register(back, selectors.EVENT_READ)
                    waiting[back] = client
                    if len(waiting) <= KEPT:
                        continue
                    ready = next(iter(waiting))
                else:
                    front.sendto(ready.recv(65535), waiting[ready])
                selector.unregister(ready)
                del waiting[ready]
                ready.close()


main()
