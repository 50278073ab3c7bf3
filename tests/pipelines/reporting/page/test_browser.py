"""The page in a real browser: opens from disk, no errors, no requests, sorts, searches, drills down, fits a phone."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.report import run
from pipelines.reporting.page import figures
from tests.fixtures.browser import open_browser
from tests.fixtures.scores import EVIL, write_scores, write_unlabelled


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser(("browser", "performance")) as driver:
        yield driver


@pytest.fixture(scope="module")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many classes as YouTube-8M has."""
    directory = tmp_path_factory.mktemp("large")
    scores = write_scores(directory / "scores", videos=120, class_count=3862)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda plot, data, size: (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b""))
        run([f"--scores={scores}", f"--output={directory / 'out'}"])
    return directory / "out" / "report.html"


def _open(browser: Any, page: Path, width: int = 1280, height: int = 900) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def _names(browser: Any) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#all tbody tr[data-index]')].map(row => row.cells[0].textContent)"
    )


def _column(browser: Any, heading: str) -> list[str]:
    return browser.execute_script(
        """
        const heads = [...document.querySelectorAll('#all thead th')];
        const place = heads.findIndex(cell => cell.textContent.startsWith(arguments[0]));
        return [...document.querySelectorAll('#all tbody tr[data-index]')].map(row => row.cells[place].textContent)""",
        heading,
    )


def _press(browser: Any, heading: str) -> None:
    browser.execute_script(
        """
        [...document.querySelectorAll('#all thead th')].find(cell => cell.textContent.startsWith(arguments[0]))
            .firstChild.click()""",
        heading,
    )


def _set(browser: Any, field: str, value: str) -> None:
    browser.execute_script(
        """
        const field = document.getElementById(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event('input'))""",
        field,
        value,
    )


def test_opens_from_disk_without_an_error_or_a_request(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    assert browser.get_log("browser") == []
    requested = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert requested and all(url.startswith(("file://", "data:")) for url in requested)


def test_a_class_name_is_text(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    assert browser.title == "Model dense on yt8m-video"
    assert EVIL.strip() in [name.strip() for name in _names(browser)]
    browser.execute_script("document.querySelector('#all tr[data-index=\"3\"] button').click()")
    assert browser.execute_script("return document.querySelector('#detail h4').textContent") == EVIL.strip()
    assert browser.title == "Model dense on yt8m-video"


def test_sorts_both_ways(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    _press(browser, "AP")
    falling = [float(value) for value in _column(browser, "AP")]
    assert falling == sorted(falling, reverse=True)
    _press(browser, "AP")
    rising = [float(value) for value in _column(browser, "AP")]
    assert rising == sorted(rising) and rising[0] < falling[0]
    assert (
        browser.execute_script("return document.querySelector('#all th[aria-sort]').getAttribute('aria-sort')")
        == "ascending"
    )


def test_searches_and_filters(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    _set(browser, "positives", "0")
    _set(browser, "search", "thíng 12")
    assert _names(browser) == ["Thing 12"]
    assert browser.execute_script("return document.getElementById('count').textContent") == "1 of 40 classes"
    _set(browser, "search", "")
    games = browser.execute_script(
        "return [...document.querySelectorAll('#vertical option')].find(option => option.textContent === 'Games').value"
    )
    _set(browser, "vertical", games)
    assert set(_column(browser, "Vertical")) == {"Games"} and len(_names(browser)) == 10
    _set(browser, "vertical", "")
    _set(browser, "positives", "10")
    assert all(int(value) >= 10 for value in _column(browser, "Positives"))


def test_drills_down_to_a_class(browser: Any, report_directory: Path, scores_directory: Path):
    _open(browser, report_directory / "report.html")
    browser.execute_script("document.querySelector('#all tr[data-index=\"5\"] button').click()")
    panel = browser.execute_script("return document.getElementById('detail').textContent")
    with (scores_directory / "per_class.csv").open(encoding="utf-8", newline="") as stream:
        row = list(csv.DictReader(stream))[5]
    assert "Thing 5" in panel and f"AP {float(row['ap']):.3f}" in panel
    square = browser.execute_script(
        "const cells = document.querySelector('#detail .square').tBodies[0].querySelectorAll('td');"
        "return [...cells].map(cell => cell.textContent)"
    )
    assert [int(value) for value in square] == [int(row[key]) for key in ("tp", "fn", "fp", "tn")]
    assert browser.execute_script("return document.querySelectorAll('#detail svg path').length") >= 4
    # The first class that it is confused with opens in its place.
    name = browser.execute_script(
        "const button = document.querySelector('#detail li button'), name = button.textContent;"
        "button.click(); return name"
    )
    assert browser.execute_script("return document.querySelector('#detail h4').textContent") == name


def test_links_to_classes_open_the_drill_down(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    link = browser.execute_script(
        "const link = document.querySelector('#confusion a.class');link.click(); return link.textContent"
    )
    browser.execute_async_script("setTimeout(arguments[0], 100)")
    assert browser.execute_script("return document.querySelector('#detail h4').textContent") == link


def test_3862_classes_without_a_lag(browser: Any, large_report: Path):
    _open(browser, large_report)
    assert browser.get_log("browser") == []
    _set(browser, "positives", "0")
    assert browser.execute_script("return document.getElementById('count').textContent") == "3,862 of 3,862 classes"
    assert 10 < len(_names(browser)) < 60  # only the rows in sight are in the document
    milliseconds = browser.execute_script("""
        const times = [], measure = (act) => { const start = performance.now(); act();
            document.getElementById('all').getBoundingClientRect(); times.push(performance.now() - start); };
        const head = document.querySelectorAll('#all thead button');
        for (const button of head) measure(() => button.click());
        const search = document.getElementById('search');
        for (const text of ['t', 'th', 'thing 3', ''])
            measure(() => { search.value = text; search.dispatchEvent(new Event('input')); });
        return times.sort((a, b) => a - b)""")
    assert milliseconds[len(milliseconds) // 2] < 100, milliseconds
    last = browser.execute_async_script("""
        const frame = document.getElementById('window'), done = arguments[0];
        document.querySelector('#all thead button').click();
        frame.scrollTop = frame.scrollHeight;
        const last = () => [...document.querySelectorAll('#all tbody tr[data-index]')].at(-1).cells[0].textContent;
        setTimeout(() => done(last()), 300)""")
    assert last == "Thing 3861"


def test_print_hides_what_paper_cannot_do(browser: Any, report_directory: Path):
    _open(browser, report_directory / "report.html")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = browser.execute_script("return getComputedStyle(document.getElementById('explorer')).display")
        instead = browser.execute_script("return getComputedStyle(document.querySelector('.print-only')).display")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (shown, instead) == ("none", "block")


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_overflows_the_page(browser: Any, report_directory: Path, width: int):
    _open(browser, report_directory / "report.html", width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wide = browser.execute_script(
        """
        const arguments_ = arguments;
        const inScroll = (element) => element.closest('.scroll, .window');
        const outside = (element) => element.getBoundingClientRect().right > arguments_[0] + 1;
        return [...document.querySelectorAll('main *')].filter(element => !inScroll(element) && outside(element))
            .map(element => element.tagName + element.className)
    """,
        width,
    )
    assert wide == []


def test_an_unlabelled_run_opens_without_an_error(browser: Any, tmp_path: Path):
    scores = write_unlabelled(tmp_path / "scores")
    run([f"--scores={scores}", f"--output={tmp_path / 'out'}"])
    _open(browser, tmp_path / "out" / "report.html", 390)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
