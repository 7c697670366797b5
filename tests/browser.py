"""A page in headless Chromium, driven through a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = (  # no host but this one has an address
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@dataclass
class Page:
    """What a page did: its requests, what its console said, and its last answer to a question."""

    pipe: Pipe
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, method: str, until: str = "", **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its result, or wait for an event after it."""
        number = self.pipe.send(method, self.session, **parameters)
        answer: dict[str, Any] | None = None
        seen = not until
        while answer is None or not seen:
            message = self.pipe.receive()
            if message.get("id") == number:
                assert "error" not in message, message
                answer = message["result"]
            seen |= message.get("method") == until
            self.notice(message.get("method", ""), message.get("params", {}))
        return answer

    def notice(self, method: str, event: dict[str, Any]) -> None:
        """Keep what an event says."""
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(event["entry"]["text"])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(event))

    def open(self, address: Path | str, width: int) -> None:
        """Open a file or an address in a window of this width."""
        self.resize(width)
        url = address.as_uri() if isinstance(address, Path) else address
        self.ask("Page.navigate", until="Page.loadEventFired", url=url)

    def resize(self, width: int) -> None:
        """Give the window this width."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str) -> None:
        """Prefer light or dark pages from now on."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def value(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """Return the whole page as a PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])


class Pipe:
    """Messages to and from Chromium, which end with a zero byte."""

    def __init__(self, command: int, answer: int) -> None:
        self.command, self.answer, self.buffer, self.count = command, answer, b"", 0

    def send(self, method: str, session: str | None = None, **parameters: Any) -> int:
        """Send a command and return its number."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self.command, json.dumps(message).encode() + b"\0")
        return self.count

    def receive(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\0" not in self.buffer:
            part = os.read(self.answer, 1 << 16)
            assert part, "Chromium ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def result(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the browser, and return its result."""
        number = self.send(method, **parameters)
        while (message := self.receive()).get("id") != number:
            pass
        assert "error" not in message, message
        found: dict[str, Any] = message["result"]
        return found


def chromium() -> str:
    """Return the path of Chromium; skip the test where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no Chromium is installed ({', '.join(NAMES)})")
    return found


@contextmanager
def page(folder: Path) -> Iterator[Page]:
    """Start Chromium with its profile in a folder, and yield an empty page."""
    to_browser, from_browser = os.pipe(), os.pipe()
    connect = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'  # where Chromium reads and writes
    command = [chromium(), *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", connect, "bash", *command],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    pipe = Pipe(to_browser[1], from_browser[0])
    try:
        target = pipe.result("Target.createTarget", url="about:blank")["targetId"]
        session = pipe.result("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        found = Page(pipe, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            found.ask(f"{domain}.enable")
        yield found
    finally:
        process.kill()
        process.wait()
        os.close(pipe.command)
        os.close(pipe.answer)
