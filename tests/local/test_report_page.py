"""The report as a reader sees it: in a browser, in the light and in the dark, on a phone and on paper."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.full_report import FILMS, write_full_report

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 120_000
WIDE, PHONE = (1280, 900), (390, 844)
GRAVE = ("serious", "critical")

OUTSIDE = """() => [...document.querySelectorAll('body *')].filter(found => {
  const box = found.getBoundingClientRect(), scrolled = found.closest('.scroll, .unseen, svg, .gates thead');
  return box.width && !scrolled && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(found => `${found.tagName}.${found.className}: ${found.textContent.trim().slice(0, 40)}`)"""

UNDRAWN = """() => {
  const bad = [];
  const check = (found, why) => { if (!found) bad.push(why); };
  const tracks = [...document.querySelectorAll('.track')], panels = [...document.querySelectorAll('.panel > svg')];
  check(tracks.length >= 6 + 4 + 7 + 2 + 2, `${tracks.length} tracks`);
  check(panels.length === 4, `${panels.length} panels`);
  for (const track of tracks) {
    const room = track.getBoundingClientRect(), marks = [...track.querySelectorAll('.dot, .hill')];
    check(room.width > 150 && room.height > 20 && marks.length === 1, 'a track of no size or without its mark');
    for (const mark of marks) {
      const box = mark.getBoundingClientRect(), colour = getComputedStyle(mark).fill;
      check(box.width > 4 && box.height > 4 && colour !== 'none', 'a mark that cannot be seen');
      check(box.left > room.left - 8 && box.right < room.right + 8, 'a mark beside its track');
    }
  }
  for (const line of document.querySelectorAll('.panel > svg .line'))
    check(line.getBoundingClientRect().width > 100 && getComputedStyle(line).stroke !== 'none', 'an undrawn line');
  for (const text of document.querySelectorAll('.plot, .panel text'))
    check(text.getBoundingClientRect().height >= 9, `text too small: ${text.textContent}`);
  for (const text of document.querySelectorAll('.panel > svg text')) {
    const box = text.getBoundingClientRect(), room = text.ownerSVGElement.getBoundingClientRect();
    check(box.left >= room.left && box.right <= room.right, `text cut off: ${text.textContent}`);
  }
  for (const table of document.querySelectorAll('table.gates'))
    check(table.offsetWidth <= table.parentElement.clientWidth + 0.5, 'the gates are wider than the page');
  for (const figure of document.querySelectorAll('.tiles .figure'))
    check(figure.scrollWidth <= figure.clientWidth, `a figure wider than its tile: ${figure.textContent}`);
  for (const picture of document.images) check(picture.naturalWidth > 0, 'a picture that is not one');
  return bad;
}"""

# The page's own policy forbids what Playwright's waiting would have to evaluate, so the page waits itself.
LOADED = """() => Promise.all([...document.querySelectorAll('video')].map(film => new Promise(done => {
  const look = () => { if (film.readyState === 4 || film.error) done(film.readyState); };
  film.addEventListener('canplaythrough', look); film.addEventListener('error', look); look();
})))"""
PLAYED = """film => film.play().then(() => new Promise(done => {
  film.addEventListener('timeupdate', () => { if (film.currentTime > 0.2) done(film.currentTime); });
}))"""


@dataclass
class Opened:
    """A page with what the browser had to say about it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one report that all tests look at."""
    return write_full_report(tmp_path_factory.mktemp("report")) / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless."""
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("there is no chromium on this machine: run scripts/browser.sh as root, or install it")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, timeout=PATIENCE_MS)
        yield started
        started.close()


def opened(browser: Browser, report: Path, size: tuple[int, int] = WIDE, scheme: str = "light") -> Opened:
    """The report in a fresh window."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    found = Opened(context.new_page())
    found.page.on("console", lambda said: found.complaints.append(f"{said.type}: {said.text}"))
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("requestfailed", lambda request: found.complaints.append(f"failed: {request.url[:80]}"))
    found.page.on("request", lambda request: found.requests.append(request.url[:80]))
    found.page.goto(report.as_uri())
    return found


@pytest.fixture(scope="module", params=[(WIDE, "light"), (WIDE, "dark"), (PHONE, "light"), (PHONE, "dark")], ids=str)
def view(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Opened]:
    """The report as four readers see it."""
    size, scheme = request.param
    found = opened(browser, report, size, scheme)
    yield found
    found.page.context.close()


def test_it_stands_alone_and_the_browser_has_nothing_to_complain_of(view: Opened, report: Path) -> None:
    view.page.wait_for_load_state("networkidle")
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith("data:")] == [report.as_uri()[:80]]


def test_the_verdict_is_what_a_reader_sees_first(view: Opened) -> None:
    for what in (view.page.locator("h1"), view.page.locator("#verdict")):
        assert what.is_visible()
        box = what.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 400
    assert "must not be served" in view.page.locator("h1").inner_text()
    assert view.page.locator("#verdict").inner_text().startswith("Fail")


def test_every_plot_is_drawn(view: Opened) -> None:
    assert view.page.evaluate(UNDRAWN) == []


def test_nothing_sticks_out(view: Opened) -> None:
    assert view.page.evaluate("document.documentElement.scrollWidth") <= view.page.evaluate("innerWidth")
    assert view.page.evaluate(OUTSIDE) == []


def test_nothing_keeps_a_reader_out(view: Opened) -> None:
    found = Axe().run(view.page)
    grave = [v for v in found.response["violations"] if v["impact"] in GRAVE]
    assert grave == [], found.generate_report()
    assert len(found.response["passes"]) > 20


@pytest.mark.timeout(300)
def test_the_films_play(view: Opened) -> None:
    assert view.page.evaluate(LOADED) == [4] * FILMS
    film = view.page.locator("video").first
    assert film.evaluate("film => [film.videoWidth, film.videoHeight, film.error]") == [480, 240, None]
    assert film.evaluate(PLAYED) > 0.2


def test_it_can_be_printed(browser: Browser, report: Path, tmp_path: Path) -> None:
    page = opened(browser, report, scheme="dark").page
    page.emulate_media(media="print")
    for what in ("document.body", "document.querySelector('figure')"):
        assert page.evaluate(f"getComputedStyle({what}).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("details").is_hidden()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert 3 <= printed.count(b"/Type /Page\n") <= 10
    page.context.close()
