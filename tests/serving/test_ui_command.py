"""``mlx-lora ui``: the page's address, and a browser that is led there without the token in anybody's process list."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from urllib.parse import unquote

import httpx
from server import PROGRAM

from mlx_lora.processes import python_environment
from mlx_lora.serving.browser import page_address


def test_a_token_of_any_signs_is_one_fragment():
    address = page_address("http://127.0.0.1:8080", 'a&b="#<c>%')
    assert address.count("#") == 1
    assert unquote(address.partition("#token=")[2]) == 'a&b="#<c>%'
    assert page_address("http://127.0.0.1:8080", None) == "http://127.0.0.1:8080/"


def test_the_page_is_opened_with_its_token(tmp_path):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}.new; mv {opened}.new {opened}\n')
    browser.chmod(0o700)
    process = subprocess.Popen(
        [*PROGRAM, "ui", "--port", "0", "--state", "state", "--models", "."],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**python_environment(), "BROWSER": f"{browser} %s"},
    )
    try:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/#token=\S+", said)[0]
        deadline = time.monotonic() + 60
        while not opened.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        # What the browser's process was given, and what it finds there.
        assert opened.read_text() == (tmp_path / "state" / "open-page.html").as_uri()
        doorway = tmp_path / "state" / "open-page.html"
        assert stat.S_IMODE(os.stat(doorway).st_mode) == 0o600
        assert f'url={address}"' in doorway.read_text()
        url, _, token = address.partition("/#token=")
        assert httpx.get(f"{url}/").headers["content-security-policy"].startswith("default-src 'none'")
        assert httpx.get(f"{url}/v1/ui/runs").status_code == 401
        assert httpx.get(f"{url}/v1/ui/runs", headers={"Authorization": f"Bearer {token}"}).json()["runs"] == []
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert process.returncode == 0
    assert not doorway.exists()
