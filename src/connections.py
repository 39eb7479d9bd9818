"""The connections of the web service: how many there may be, and how long each may take to say what it wants."""
import asyncio
import functools
import json
import os
import resource

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from src.service_access import entry_of

BACKLOG = 128  # connections that are taken at a time, before any is looked at
SMALL_CHUNKS = 100  # chunks of a body that may be of any size
MEAN_CHUNK = 128  # bytes that a chunk has in the mean, where there are more: each takes as much time as some kilobytes do


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


class Requests(h11.Connection):
    """h11's reader of requests, which refuses bodies in tiny chunks, and remembers why it refused one."""

    problem = None

    def next_event(self):
        """The next event. Raises h11.RemoteProtocolError."""
        try:
            event = super().next_event()
            self.count(event)
            return event
        except h11.RemoteProtocolError as error:
            self.problem = error
            raise

    def count(self, event):
        """Note a chunk and its bytes."""
        if isinstance(event, h11.Request):
            self.chunks = self.bytes = 0
        elif isinstance(event, h11.Data):
            self.chunks, self.bytes = self.chunks + event.chunk_start, self.bytes + len(event.data)
            if self.chunks > SMALL_CHUNKS and self.bytes < MEAN_CHUNK * self.chunks:
                raise h11.RemoteProtocolError(f"the body comes in chunks of fewer than {MEAN_CHUNK} bytes; send larger ones")


class Connection(H11Protocol):
    """uvicorn's connection, which waits without end for a request's headers; here they come within header_seconds. What is refused before
    there is a request gets a sentence, an id and a line in the log, too."""

    def __init__(self, *words, connections, header_seconds, log, **named):
        super().__init__(*words, **named)
        self.all, self.header_seconds, self.log = connections, header_seconds, log
        self.conn = Requests(h11.SERVER)
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
        idle = self.is_idle()
        place = self.all.waiting if idle else self.all.sending if self.conn.their_state is h11.SEND_BODY else self.all.answered
        self.all.move(self, place)
        # Between two requests uvicorn has a timer of its own, which ends with the first byte of the next.
        self.set_timer(idle and self.timeout_keep_alive_task is None)

    def is_idle(self):
        """Whether there is no request that waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def set_timer(self, on):
        """Start the time for the headers, unless it runs, or stop it."""
        if on and self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.header_seconds, self.too_late)
        elif not on and self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def too_late(self):
        """Answer a client whose headers did not come, and end the connection."""
        self.refuse(408, f"the headers did not come within {self.header_seconds:g} s")

    def send_400_response(self, msg):
        """Answer a client whose request is no HTTP; uvicorn calls this."""
        self.refuse(self.conn.problem.error_status_hint, f"not a request that can be read: {self.conn.problem}"[:300])

    def refuse(self, status, detail):
        """Answer a client in place of the application, which takes it for one that has left, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # no answer has begun
            entry = entry_of({"client": self.client} if self.is_idle() else self.scope)
            body = json.dumps({"detail": detail}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close"),
                       ("X-Request-ID", entry["id"])]
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
            if self.is_idle():
                self.log.add(**entry | {"status": status})
        if not self.is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


class Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is done, within header_seconds; then a Connection has it. asyncio's own server would let anyone
    hold any number of them for a minute."""

    def __init__(self, context, make, connections, header_seconds, server_state):
        self.context, self.make, self.all, self.header_seconds = context, make, connections, header_seconds
        self.open = server_state.connections  # those that uvicorn shuts down at the end
        self.early, self.connection, self.lost = b"", None, False  # early: what comes between the handshake and the Connection

    def connection_made(self, transport):
        """A client has come."""
        self.transport = transport
        transport.pause_reading()  # until TLS reads
        self.open.add(self)
        self.all.move(self, self.all.waiting)
        self.all.make_room()
        self.task = asyncio.get_running_loop().create_task(self.shake())

    def data_received(self, data):
        """A client has sent something."""
        self.early += data

    def connection_lost(self, exc):
        """A client is gone."""
        self.lost = True
        if self.connection is not None:
            self.connection.connection_lost(exc)

    async def shake(self):
        """Give the connection on to a Connection when its handshake is done."""
        loop = asyncio.get_running_loop()
        try:
            secure = await loop.start_tls(self.transport, self, self.context, server_side=True, ssl_handshake_timeout=self.header_seconds)
        except OSError:  # no TLS, too late or gone
            return
        finally:
            self.open.discard(self)
            self.all.move(self)
        if self.lost or secure is None:  # None for one that was dropped at once
            return
        self.connection = self.make()
        secure.set_protocol(self.connection)
        self.connection.connection_made(secure)
        if self.early:
            self.connection.data_received(self.early)

    def shutdown(self):
        """The service is ending; uvicorn calls this."""
        self.transport.abort()


def protocol(connections, header_seconds, log, context=None):
    """What uvicorn is to make of each connection (its option http); context is the ssl.SSLContext of HTTPS."""

    def make(**named):
        plain = functools.partial(Connection, connections=connections, header_seconds=header_seconds, log=log, **named)
        return Handshake(context, plain, connections, header_seconds, named["server_state"]) if context else plain()

    return make
