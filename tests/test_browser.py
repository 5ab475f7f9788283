"""Watches over the explorer end to end: the command, its page, a browser.

The command serves a Voilà page on localhost, which Debian's Chromium shows, driven by mouse and
keyboard. Pictures are kept in build/browser.
"""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqdream.methods import STEPS_OWN

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("voila", reason="the explorer's extra is not installed")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PICTURES = Path(__file__).parent.parent / "build" / "browser"


EXPLORE = [sys.executable, "-m", "seqdream.cli", "explore", "FordA", "--model", "paper", "--port"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def serve(*options):
    "The explorer's process and its page's address, once the page is there."
    port = free_port()
    # the bits of a dream are those of one thread, here and in this process
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    command = [*EXPLORE, str(port), *options]
    process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
    deadline = time.time() + 90
    while time.time() < deadline:
        if answers(port):
            return process, f"http://127.0.0.1:{port}/"
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise TimeoutError("the page was not served within 90 s")


def end(process):
    os.killpg(process.pid, signal.SIGTERM)  # deaf to Ctrl-C in a background job
    try:
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


SAYS = """t => [...document.querySelectorAll('.sd-says, .sd-error')]
    .some(e => new RegExp(t).test(e.textContent))"""
COPIED = "async t => (await navigator.clipboard.readText()) === t"
NEW_CALL = """t => {
    const now = document.querySelector('textarea').value;
    return now !== t && now.includes('region=[');
}"""


class Screen:
    "The page, and what people look for on it."

    def __init__(self, page):
        self.page = page

    def button(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    @property
    def plane(self):
        return self.page.locator(".sd-clickable img")

    @property
    def walk(self):
        return self.page.locator(".sd-canvas img").nth(1)

    @property
    def steps(self):
        "The handle of the slider."
        around = self.page.get_by_text("steps", exact=True).locator("xpath=../..")
        return around.locator("[role=slider]").first

    def brightness(self):
        "Mean grey of the picture of the walk, 0 to 255."
        picture = Image.open(io.BytesIO(self.walk.screenshot()))
        return np.asarray(picture.convert("L")).mean()

    def says(self):
        return self.page.locator(".sd-says, .sd-error").inner_text()

    def dream_until(self, text):
        "Press Dream until the page says so: a click before its kernel listens is lost."
        for patience in (20, 20, 60):
            self.button("Dream").click()
            try:
                return self.until(text, patience)
            except playwright.TimeoutError:
                if patience == 60:
                    raise

    def until(self, text, timeout=60):
        self.page.wait_for_function(SAYS, arg=text, timeout=timeout * 1000)

    def keep(self, name):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png")

    def call(self):
        return self.page.locator("textarea").input_value()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address():
    process, url = serve()
    yield url
    end(process)


SIZE = {"width": 1280, "height": 720}
LOCAL = re.compile(r"(https?|wss?)://127\.0\.0\.1|data:|blob:")


@pytest.fixture()
def screen(chromium, address):
    context = chromium.new_context(viewport=SIZE, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    page = context.new_page()
    outside = []

    def note(request):
        if not LOCAL.match(request.url):
            outside.append(request.url)

    page.on("request", note)
    page.goto(address, timeout=90_000)
    page.wait_for_selector(".sd-clickable img", timeout=90_000)
    yield Screen(page)
    assert not outside, "the page asked for something elsewhere"
    context.close()


def test_browser_class_and_region_by_mouse_a_slider_by_keyboard_and_the_call_run_again(screen):
    page = screen.page
    screen.keep("1-first")
    page.get_by_label("class", exact=True).select_option("class 0 (label -1)")
    screen.button("centre").click()
    screen.steps.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    before = screen.walk.screenshot()
    screen.button("Dream").click()
    screen.until("SD centre of class 0")
    assert screen.walk.screenshot() != before
    assert "target_class=0" in screen.call()
    assert "region='centre'" in screen.call()
    steps = int(re.search(r"steps=(\d+)", screen.call())[1])
    assert steps < STEPS_OWN, "the keyboard moved the slider"
    screen.button("copy call").click()
    page.wait_for_function(COPIED, arg=screen.call(), timeout=10_000)
    with page.expect_download() as got:
        screen.button("CSV").click()
    table = np.genfromtxt(got.value.path(), delimiter=",", skip_header=1)
    names = {}
    exec(page.evaluate("navigator.clipboard.readText()"), names)
    downloaded = table[:, 2].astype(np.float32)
    own = names["d"].x[0, 0].numpy()
    assert np.array_equal(downloaded, own), "the call gives the same bits in another process"
    for label, magic in (("SVG", b"<?xml"), ("GIF", b"GIF8")):
        with page.expect_download() as got:
            screen.button(label).click()
        assert Path(got.value.path()).read_bytes().startswith(magic)
    screen.keep("2-dreamt")


def region_in(call: str) -> list[float]:
    return [float(v) for v in re.search(r"region=\[(.*?)\]", call)[1].split(",")]


def test_browser_click_the_plane_by_mouse_and_by_keyboard(screen):
    page = screen.page
    box = screen.plane.bounding_box()
    screen.plane.click(position={"x": 0.35 * box["width"], "y": 0.4 * box["height"]})
    screen.until("SD picked|SD .* of class 1: ")
    assert "region=[" in screen.call()
    first = screen.call()
    screen.keep("3-clicked")
    page.locator(".sd-clickable").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function(NEW_CALL, arg=first, timeout=60_000)
    assert region_in(screen.call()) != region_in(first)
    screen.keep("4-picked-by-keyboard")


def test_browser_moves_while_it_dreams_stops_and_starts_over(screen):
    page = screen.page
    page.get_by_label("method", exact=True).select_option("grounded")
    screen.button("beyond").click()
    screen.steps.focus()
    page.keyboard.press("End")
    began = time.time()
    source = screen.walk.get_attribute("src")
    screen.button("Dream").click()
    seen = set()
    while len(seen) < 6 and time.time() - began < 60:
        seen.add(screen.walk.get_attribute("src"))
        time.sleep(0.02)
    assert len(seen - {source}) >= 4, "several pictures while it runs"
    screen.keep("5-under-way")
    screen.button("Stop").click()
    screen.until("stopped after")
    assert int(re.search(r"stopped after (\d+)", screen.says())[1]) < 300
    screen.button("Dream").click()
    screen.until("under way")
    screen.button("centre").click()
    screen.button("Dream").click()  # a second click starts over
    screen.until("grounded centre of class 1")
    assert page.locator(".sd-table tr").count() == 2
    assert page.locator("text=3:").count() == 0


def test_browser_bad_settings_show_their_message(screen):
    screen.page.get_by_label("k", exact=True).fill("two")
    screen.page.keyboard.press("Enter")
    screen.button("Dream").click()
    screen.until("give a number")
    assert screen.page.locator("[role=alert]").count() == 1
    screen.keep("6-wrong")
    screen.page.get_by_label("k", exact=True).fill("")
    screen.page.keyboard.press("Enter")
    screen.button("beyond").click()
    screen.button("Dream").click()
    screen.until("there are centre, max")


def test_browser_dark_page(chromium):
    process, url = serve("--dark")
    try:
        page = chromium.new_page(viewport=SIZE)
        page.goto(url, timeout=90_000)
        page.wait_for_selector(".sd-clickable img", timeout=90_000)
        screen = Screen(page)
        deadline = time.time() + 30
        while time.time() < deadline and screen.brightness() > 80:
            time.sleep(0.2)
        assert screen.brightness() < 80
        screen.dream_until("of class 1: ")
        screen.keep("7-dark")
    finally:
        end(process)
