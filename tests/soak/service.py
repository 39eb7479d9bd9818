"""Thousands of damaged images, hostile forms and requests that are no HTTP, for a service that runs: no status 500, bounded memory.

python tests/soak/service.py --url http://127.0.0.1:8000 --pid PID --count 10000
"""
import argparse
import collections
import os
import socket
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import psutil

sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.soak.damage import damage

WORDS = [b"GET /%s HTTP/1.1", b"POST /predict?%s HTTP/1.1", b"PUT /predict HTTP/1.1",
         b"OPTIONS /predict HTTP/1.1",
         b"HEAD /../../etc/passwd HTTP/1.1", b"POST http://x/predict HTTP/1.1", b"%s", b"POST /predict HTTP/9.9"]
HEADERS = [b"Transfer-Encoding: chunked", b"Content-Length: -5", b"Content-Length: 99999999999", b"Expect: 100-continue",
           b"X-Request-ID: \x01",
           b"Content-Type: multipart/form-data; boundary=" + b"b" * 300, b"Content-Type: multipart/form-data", b"Accept: image/jpeg",
           b"Content-Encoding: gzip", b"Cookie: " + b"c" * 5000, b"Upgrade: websocket\r\nConnection: Upgrade", b"Content-Type: \xff\xfe"]


def images():
    """A small image in every format."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    return [cv2.imencode(ending, pixels)[1].tobytes() for ending in (".png", ".jpg", ".webp", ".bmp", ".tif")]


def request(rng, whole):
    """The bytes of a hostile request."""
    kind, data = rng.integers(4), damage(whole[rng.integers(len(whole))], rng)
    if kind == 0:  # an image
        return b"POST /predict?score=0 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    if kind == 1:  # a form
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + data + b"\r\n"
        form = damage(part * int(rng.integers(1, 4)) + b"--b--\r\n", rng)
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n"
        return head % len(form) + form
    line = WORDS[rng.integers(len(WORDS))]
    noise = urllib.parse.quote(rng.bytes(rng.integers(1, 40))).encode() if kind == 2 else rng.bytes(rng.integers(1, 40))
    headers = [HEADERS[number] for number in rng.integers(0, len(HEADERS), rng.integers(0, 4))]
    return b"\r\n".join([line % noise if b"%s" in line else line, b"Host: x", *headers, b"", data])


def ask(address, data):
    """The status of the answer to a request's bytes; 0 if the connection ended without one, -1 if it stays open for two seconds."""
    with socket.create_connection(address, timeout=60) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(2)
            answer = connection.recv(100)
        except TimeoutError:
            return -1
        except OSError:
            return 0
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


def memory(pid):
    """The memory of a process and of its workers, in MB."""
    service = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (service, *service.children())) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts = urllib.parse.urlsplit(options.url)
    address, whole = (parts.hostname, parts.port), images()
    for data in whole:
        ask(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    start = memory(options.pid)
    with ThreadPoolExecutor(16) as pool:
        statuses = collections.Counter(pool.map(lambda number: ask(address, request(np.random.default_rng([options.seed, number]), whole)),
                                                range(options.count)))
    end = memory(options.pid)
    good = ask(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(whole[0]) + whole[0])
    print(f"{dict(sorted(statuses.items()))}; memory {start:.0f} -> {end:.0f} MB ({end / start:.2f}); a proper image: {good}")
    sys.exit(500 in statuses or good != 200 or end > 1.5 * start)


if __name__ == "__main__":
    main()
