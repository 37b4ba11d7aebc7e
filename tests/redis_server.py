"""A real redis-server of one test's own, on a free port of this machine."""

import os
import shutil
import signal
import socket
import subprocess
import time


def program():
    """The server is the same program as redis-check-rdb, from a package without a service."""
    return shutil.which("redis-server") or shutil.which("redis-check-rdb")


class RedisServer:
    def __init__(self, folder, *options):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        self._command += ["--save", "", "--dir", str(folder), *options]
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            self._command, executable=program(), stdout=subprocess.DEVNULL
        )
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise AssertionError("redis-server did not start")

    def url(self, password=""):
        return f"redis://{':' + password + '@' if password else ''}127.0.0.1:{self.port}/test"

    def send(self, number):
        os.kill(self._process.pid, number)

    def pause(self):
        self.send(signal.SIGSTOP)

    def stop(self):
        self._process.kill()
        self._process.wait()

    def ask(self, *words):
        """The server's answer as bytes; of an array, the lines of it all."""
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        request = b"*%d\r\n" % len(parts)
        request += b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while part := connection.recv(1 << 16):
                answer += part
        return answer
