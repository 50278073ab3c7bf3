"""Starts the live page with a clip of the sample playing, on a free port of this machine; ends with Ctrl-C.

python -m deploy.live.demo demo_output/live

With CI=1 in the environment it takes a screenshot into that directory once labels are shown, and stops.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
CLIP = ROOT / "sample" / "video" / "V_BIRD_017.mp4"
_LABELS_SECONDS = 90


def main() -> int:
    """Returns the exit status."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "demo_output/live")
    command = [sys.executable, "-m", "vcls_model.serve", "--port=0", f"--source=sample=loop:{CLIP}", *sys.argv[2:]]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        if found is None:
            return server.wait()
        address = f"{found[0]}?stream=sample"
        print(f"open {address} (Ctrl-C ends it)", flush=True)
        if os.environ.get("CI"):
            output.mkdir(parents=True, exist_ok=True)
            take_screenshot(address, output / "live.png")
            return 0
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def take_screenshot(address: str, path: Path) -> None:
    """A picture of the page in headless Chromium, once a label has a bar."""
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        print("no chromium with chromedriver on this machine: no screenshot", flush=True)
        return
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(address)
        _wait_for_labels(browser)
        browser.save_screenshot(str(path))
        print(f"screenshot: {path.resolve()}", flush=True)
    finally:
        browser.quit()


def _wait_for_labels(browser: Any) -> None:
    deadline = time.monotonic() + _LABELS_SECONDS
    while time.monotonic() < deadline:
        shown = browser.execute_script(
            "return document.querySelectorAll('.bar').length > 0 &&"
            " Number(document.querySelector('.labelled').textContent) >= 8"
        )
        if shown:
            time.sleep(1)  # for the bars to come to rest
            return
        time.sleep(0.2)
    raise SystemExit("error: no label was shown in time")


if __name__ == "__main__":
    sys.exit(main())
