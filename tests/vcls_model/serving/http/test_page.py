"""The page in headless Chromium, whose camera plays a real clip."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.browser import open_browser
from tests.fixtures.media import COLOURS


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film for the browser's camera: each colour for two seconds, uncompressed, as Chromium plays it in a loop."""
    import av
    import numpy as np

    path = tmp_path_factory.mktemp("camera") / "colours.y4m"
    with open(path, "wb") as film:
        film.write(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420jpeg\n")
        for number in range(80):
            pixels = np.broadcast_to(np.array(COLOURS[number // 20], np.uint8), (240, 320, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24").reformat(format="yuv420p")
            film.write(b"FRAME\n" + frame.to_ndarray().tobytes())
    return path


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    flags = (
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
        "--autoplay-policy=no-user-gesture-required",
    )
    with open_browser(flags=flags) as driver:
        yield driver


def wait(browser: Any, what: str, script: str, seconds: float = 25) -> Any:
    """The value of a script's expression once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := browser.execute_script(f"return {script}"):
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what}: {browser.execute_script('return document.body.innerText')}")


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Callable[[str], Any]]:
    """The page, opened again; whatever it logs as an error fails the test."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get(address)
    wait(browser, "the labels", "document.getElementById('model').textContent.includes('5 labels')")
    browser.get_log("browser")
    yield lambda script: browser.execute_script(f"return {script}")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    browser.execute_script("document.querySelectorAll('.stop').forEach((button) => button.click())")


def downloaded(page: Callable[[str], Any], form: str) -> str:
    """What the first stream's download holds."""
    return page(
        "new Promise((resolve) => { const made = URL.createObjectURL; URL.createObjectURL = (blob) => { "
        "blob.text().then(resolve); URL.createObjectURL = made; return made(blob); }; "
        f"const select = document.querySelector('.download'); select.value = '{form}'; "
        "select.dispatchEvent(new Event('change')); })"
    )


BARS = "[...document.querySelectorAll('.bar:not([aria-hidden])')].map((bar) => bar.innerText)"

ON = "[...document.querySelectorAll('.bar.on:not([aria-hidden])')]"


def press(browser: Any, key: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(key).perform()


def test_a_camera_s_labels_come_go_and_are_spoken(browser: Any, page: Callable[[str], Any]) -> None:
    press(browser, "c")
    names = ["red", "green", "blue <b>", "yellow"]
    seen = set()
    deadline = time.monotonic() + 30
    while len(seen) < 4 and time.monotonic() < deadline:
        for text in page(BARS):
            name, percent = text.split("\n")
            if int(percent.rstrip(" %")) >= 90:
                seen.add(name)
        time.sleep(0.2)
    assert seen >= set(names)
    assert any(name in page("document.getElementById('spoken').textContent") for name in names)
    assert page("document.getElementById('spoken').getAttribute('aria-live')") == "polite"
    assert int(page("document.querySelector('.labelled').textContent")) >= 5
    assert page("document.querySelector('.latency').textContent").endswith(")")
    assert page("document.querySelectorAll('.lane button').length") >= 2
    assert page("document.querySelector('video').videoWidth") == 320

    # A label of the lanes jumps to its best moment, shows that moment's picture, and L goes back.
    browser.execute_script("document.querySelector('.lane button').click()")
    assert page("document.querySelector('h3').textContent").startswith("at 0:")
    assert page("!document.querySelector('.picture img').hidden")
    press(browser, "l")
    assert page("document.querySelector('h3').textContent") == "now"
    browser.execute_script("document.querySelector('.lane button').blur()")

    # The filter hides other names; the slider hides what is improbable.
    browser.find_element("id", "filter").send_keys("red")
    wait(browser, "only red", f"{BARS}.every((text) => text.startsWith('red'))")
    wait(
        browser,
        "only red lanes",
        "[...document.querySelectorAll('.lane button')].every((each) => each.innerText === 'red')",
    )
    browser.execute_script(
        "for (const [id, value] of [['filter', ''], ['threshold', '0.9']]) { const input = document.getElementById(id);"
        "input.value = value; input.dispatchEvent(new Event('input')); }"
    )
    wait(browser, "one colour", f"{BARS}.length === 1")
    assert page("document.getElementById('threshold-shown').textContent") == "90 %"


@pytest.mark.long
def test_a_file_plays_and_a_click_on_the_timeline_jumps(browser: Any, page: Callable[[str], Any], clip: Path) -> None:
    from selenium.webdriver import ActionChains

    webm = clip.with_suffix(".webm")
    _as_webm(clip, webm)
    browser.find_element("id", "file-input").send_keys(str(webm))
    wait(browser, "some seconds", "Number(document.querySelector('.labelled').textContent) >= 5")
    over = browser.find_element("css selector", ".u-over")
    ActionChains(browser).move_to_element_with_offset(over, 4 - over.size["width"] // 2, 0).click().perform()
    wait(browser, "the start", "document.querySelector('h3').textContent === 'at 0:00'")
    assert page("document.querySelector('video').currentTime") < 4
    press(browser, "l")
    wait(browser, "the end", "document.querySelector('.state').textContent === 'played to its end'")
    content = downloaded(page, "csv")
    assert content.startswith("index,name,start_seconds") and '"red"' in content


def _as_webm(clip: Path, target: Path) -> None:
    """VP8, which every Chromium plays."""
    import av

    with av.open(str(clip)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in source.decode(video=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_whole_file_is_sent_and_its_labels_shown_over_time(
    browser: Any, page: Callable[[str], Any], clip: Path
) -> None:
    """As the service made them, though this browser may not play the file."""
    browser.find_element("id", "whole-input").send_keys(str(clip))
    wait(browser, "the labels", "document.querySelector('.state').textContent === '0:08 labelled'")
    assert page("document.querySelector('h3').textContent") == "all of it"
    assert page(BARS)[0].startswith("loud")
    lanes = page("[...document.querySelectorAll('.lane')].map((lane) => [lane.innerText, lane.childElementCount])")
    counts = {text.split("\n")[0]: count for text, count in lanes}
    assert counts == {"red": 2, "green": 2, "blue <b>": 2, "yellow": 2, "loud": 1}
    for name, second in (("green", 1), ("yellow", 3)):
        browser.execute_script(
            "[...document.querySelectorAll('.lane button')].find((each) => each.innerText === arguments[0]).click()",
            name,
        )
        assert page("document.querySelector('h3').textContent") == f"at 0:0{second}"
        assert set(page(f"{ON}.map((bar) => bar.innerText.split('\\n')[0])")) == {name, "loud"}
    press(browser, "l")
    assert page("document.querySelector('h3').textContent") == "all of it"
    content = downloaded(page, "vtt")
    assert content.startswith("WEBVTT\n\n00:00:00.000 --> ") and "blue &lt;b&gt;" in content


def test_a_pulled_stream_is_shown(browser: Any, page: Callable[[str], Any]) -> None:
    browser.execute_script(
        "const select = document.getElementById('pulled-name'); select.value = 'film';"
        "select.dispatchEvent(new Event('change'));"
    )
    wait(browser, "labels", f"{BARS}.length > 0")
    assert page("document.querySelector('h2').textContent") == "film"


def test_several_streams_lie_side_by_side_and_a_topic_filters_all(browser: Any, page: Callable[[str], Any]) -> None:
    press(browser, "c")
    wait(browser, "bars of the camera", f"{BARS}.length > 0")
    browser.execute_script(
        "const select = document.getElementById('pulled-name'); select.value = 'film';"
        "select.dispatchEvent(new Event('change'));"
    )
    wait(
        browser,
        "bars of both",
        "[...document.querySelectorAll('.stream')].filter((each) => each.querySelector('.bar')).length === 2",
    )
    places = page(
        "[...document.querySelectorAll('.stream')].map((each) => { const box = each.getBoundingClientRect();"
        "return [Math.round(box.left), Math.round(box.right), Math.round(box.top)]; })"
    )
    assert places[0][2] == places[1][2] and places[0][1] <= places[1][0]
    browser.execute_script(
        "const select = document.getElementById('vertical'); select.value = 'Heard';"
        "select.dispatchEvent(new Event('input'));"
    )
    wait(browser, "only what is heard", f"{BARS}.length > 0 && {BARS}.every((text) => text.startsWith('loud'))")
    browser.execute_script(
        "const select = document.getElementById('vertical'); select.value = '';"
        "select.dispatchEvent(new Event('input'));"
    )
    wait(browser, "colours again", f"{BARS}.some((text) => !text.startsWith('loud'))")


def test_errors_are_words(browser: Any, page: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no film")
    browser.find_element("id", "file-input").send_keys(str(tmp_path / "x.mp4"))
    wait(browser, "words", "document.getElementById('error').textContent.includes('cannot play that file')")
    assert page("document.querySelectorAll('.stream').length") == 0
    browser.find_element("id", "whole-input").send_keys(str(tmp_path / "x.mp4"))
    wait(
        browser,
        "words",
        "document.getElementById('error').textContent.startsWith('x.mp4: the file is not audio or video')",
    )
    assert page("document.querySelectorAll('.stream').length") == 0
    assert page("!document.getElementById('empty').hidden")


@pytest.mark.parametrize("width", [360, *(pytest.param(each, marks=pytest.mark.long) for each in (390, 768, 1280))])
def test_it_fits_every_width_in_light_and_dark(browser: Any, page: Callable[[str], Any], width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    press(browser, "c")
    wait(browser, "bars", f"{BARS}.length > 0")
    assert page("document.documentElement.scrollWidth") <= width
    ground = page("getComputedStyle(document.body).backgroundColor")
    browser.execute_script("document.getElementById('theme').click()")
    assert page("getComputedStyle(document.body).backgroundColor") != ground
    browser.execute_script("document.getElementById('theme').click()")
    unnamed = (
        "[...document.querySelectorAll('button, input, select')].filter((each) => each.offsetParent && "
        "!each.innerText.trim() && !each.ariaLabel && !each.closest('label') && each.type !== 'file').length"
    )
    assert page(unnamed) == 0


def test_nothing_is_asked_of_other_hosts() -> None:
    folder = Path(__file__).parents[4] / "vcls_model" / "serving" / "page"
    for path in folder.glob("*.*"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path.name
    with contextlib.suppress(FileNotFoundError):
        for path in folder.glob("*.js"):
            subprocess.run(["node", "--check", "--input-type=module", "-"], input=path.read_bytes(), check=True)
    assert json.dumps(sorted(path.name for path in (folder / "vendor").iterdir())) == (
        '["uPlot.LICENSE", "uPlot.iife.min.js", "uPlot.min.css"]'
    )
