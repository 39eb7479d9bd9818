"""Send thousands of damaged images, hostile forms and invalid HTTP requests to a running service: no status 500,
bounded memory.

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

LINES = [b"GET /%s HTTP/1.1", b"POST /predict?%s HTTP/1.1", b"PUT /predict HTTP/1.1", b"OPTIONS /predict HTTP/1.1",
         b"HEAD /../../etc/passwd HTTP/1.1", b"POST http://x/predict HTTP/1.1", b"%s", b"POST /predict HTTP/9.9"]
HEADERS = [b"Transfer-Encoding: chunked", b"Content-Length: -5", b"Content-Length: 99999999999",
           b"Expect: 100-continue", b"X-Request-ID: \x01", b"Content-Type: multipart/form-data; boundary=" + b"b" * 300,
           b"Content-Type: multipart/form-data", b"Accept: image/jpeg", b"Content-Encoding: gzip",
           b"Cookie: " + b"c" * 5000, b"Upgrade: websocket\r\nConnection: Upgrade", b"Content-Type: \xff\xfe"]


def images():
    """A small image in each format."""
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    return [cv2.imencode(ending, pixels)[1].tobytes() for ending in (".png", ".jpg", ".webp", ".bmp", ".tif")]


def request(rng, valid):
    """The bytes of a hostile request, from a list of valid images."""
    kind, data = rng.integers(4), damage(valid[rng.integers(len(valid))], rng)
    if kind == 0:  # an image
        return b"POST /predict?score=0 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data
    if kind == 1:  # a form
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + data + b"\r\n"
        form = damage(part * int(rng.integers(1, 4)) + b"--b--\r\n", rng)
        head = (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                b"Content-Length: %d\r\n\r\n")
        return head % len(form) + form
    line = LINES[rng.integers(len(LINES))]
    noise = rng.bytes(rng.integers(1, 40))
    if kind == 2:
        noise = urllib.parse.quote(noise).encode()
    headers = [HEADERS[number] for number in rng.integers(0, len(HEADERS), rng.integers(0, 4))]
    return b"\r\n".join([line % noise if b"%s" in line else line, b"Host: x", *headers, b"", data])


def send(address, data):
    """Send a request; return the response's status, 0 if the connection closes without one, -1 after two seconds."""
    with socket.create_connection(address, timeout=60) as connection:
        try:
            connection.sendall(data)
            connection.settimeout(2)
            response = connection.recv(100)
        except TimeoutError:
            return -1
        except OSError:
            return 0
    return int(response.split()[1]) if response.startswith(b"HTTP/") else 0


def memory(pid):
    """The memory of a process and its workers, in MB."""
    service = psutil.Process(pid)
    return sum(process.memory_info().rss for process in (service, *service.children())) / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="address of the service")
    parser.add_argument("--pid", type=int, required=True, help="process id of the service")
    parser.add_argument("--count", type=int, default=10_000, help="number of requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    options = parser.parse_args()
    url = urllib.parse.urlsplit(options.url)
    address, valid = (url.hostname, url.port), images()

    def send_image(data):
        return send(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)

    def send_hostile(number):
        return send(address, request(np.random.default_rng([options.seed, number]), valid))

    for data in valid:
        send_image(data)
    start = memory(options.pid)
    with ThreadPoolExecutor(16) as pool:
        statuses = collections.Counter(pool.map(send_hostile, range(options.count)))
    end = memory(options.pid)
    good = send_image(valid[0])
    print(f"{dict(sorted(statuses.items()))}; memory {start:.0f} -> {end:.0f} MB ({end / start:.2f}); "
          f"a valid image: {good}")
    sys.exit(500 in statuses or good != 200 or end > 1.5 * start)


if __name__ == "__main__":
    main()
