"""The browser that the viewer is tested in: Chromium from the PATH, else Playwright's own, else Debian's.

python tests/chromium.py          # find or install one, and say which
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 600  # for a download


class NoChromium(Exception):
    """One line for whoever runs the tests."""


def launch(playwright: Playwright) -> Browser:
    """A headless Chromium. Raises NoChromium."""
    arguments = ["--no-sandbox"] if is_root() else []  # Chromium refuses to start as root with its sandbox
    return playwright.chromium.launch(executable_path=find(playwright), args=arguments)


def find(playwright: Playwright) -> str:
    """Path of a Chromium, which is installed if there is none. Raises NoChromium."""
    own = Path(playwright.chromium.executable_path)
    if found := on_path():
        return found
    if own.is_file():
        return str(own)
    tried = [run(sys.executable, "-m", "playwright", "install", "chromium")]
    if own.is_file():
        return str(own)
    if is_root() and shutil.which("apt-get"):
        tried.append(run("apt-get", "install", "--yes", "--no-install-recommends", "chromium"))
        if found := on_path():
            return found
    raise NoChromium(
        f"the viewer's tests need Chromium: none of {', '.join(NAMES)} is on the PATH, and {'; '.join(tried)}. "
        "Install Chromium with the system's package manager and run again."
    )


def on_path() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def run(*command: str) -> str:
    """What became of a command, for the message."""
    name = " ".join(command).replace(sys.executable, "python")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"`{name}` failed ({error})"
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"`{name}` ended with {done.returncode}" + (f" ({lines[-1].strip()[:200]})" if lines else "")


def main() -> int:
    with sync_playwright() as playwright:
        try:
            browser = launch(playwright)
        except NoChromium as error:
            print(error, file=sys.stderr)
            return 1
        print(f"Chromium {browser.version}, {find(playwright)}")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
