"""The connections of the web service: how many there may be, and how long each may take to say what it wants."""
import asyncio
import functools
import os
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 128  # connections that are taken at a time, before any is looked at
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def raise_file_limit(wanted):
    """Let this process open as many files as it may, and return how many connections it can have, at most `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = len(os.listdir("/proc/self/fd")) + 2 * BACKLOG
    needed = wanted + taken
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - taken))


class Connections:
    """The open connections. Where there are more than `most`, the one goes that has waited longest: first of those that have not said what
    they want, then of those that are still sending it. One whose request is complete stays."""

    def __init__(self, most):
        self.most = most
        self.waiting, self.sending, self.answered = {}, {}, {}  # in their order

    def __len__(self):
        return len(self.waiting) + len(self.sending) + len(self.answered)

    def move(self, connection, place=None):
        """Put a connection at the end of a place (waiting, sending, answered), or in none."""
        if place is not None and connection in place:
            return
        for one in (self.waiting, self.sending, self.answered):
            one.pop(connection, None)
        if place is not None:
            place[connection] = True

    def make_room(self):
        """Drop connections until there are no more than `most`."""
        while len(self) > self.most and (self.waiting or self.sending):
            oldest = next(iter(self.waiting or self.sending))
            self.move(oldest)
            oldest.transport.abort()


class Connection(H11Protocol):
    """uvicorn's connection, which waits without end for a request's headers; here they come within header_seconds."""

    def __init__(self, *words, connections, header_seconds, **named):
        super().__init__(*words, **named)
        self.all, self.header_seconds = connections, header_seconds
        self.timer = None

    def connection_made(self, transport):
        """A client has come."""
        super().connection_made(transport)
        self.sort_in()
        self.all.make_room()

    def data_received(self, data):
        """A client has sent something."""
        super().data_received(data)
        self.sort_in()

    def on_response_complete(self):
        """An answer is sent; the next request may come on the same connection."""
        super().on_response_complete()
        self.sort_in()

    def connection_lost(self, exc):
        """A client is gone."""
        super().connection_lost(exc)
        self.all.move(self)
        self.set_timer(False)

    def sort_in(self):
        """Note what the connection is doing, and give it time where it waits for headers."""
        if self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        place = self.all.waiting if idle else self.all.sending if self.conn.their_state is h11.SEND_BODY else self.all.answered
        self.all.move(self, place)
        # Between two requests uvicorn has a timer of its own, which ends with the first byte of the next.
        self.set_timer(idle and self.timeout_keep_alive_task is None)

    def set_timer(self, on):
        """Start the time for the headers, unless it runs, or stop it."""
        if on and self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.header_seconds, self.too_late)
        elif not on and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def too_late(self):
        """Answer a client whose headers did not come, and end the connection."""
        self.transport.write(TOO_LATE)
        self.transport.close()


def protocol(connections, header_seconds):
    """What uvicorn is to make of each connection (its option http)."""
    return functools.partial(Connection, connections=connections, header_seconds=header_seconds)
