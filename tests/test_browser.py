"The explorer end to end: the command, a Voilà page on localhost, Debian's Chromium driven by mouse and keyboard. Pictures are kept in build/browser."
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

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None: pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("voila", reason="the explorer's extra is not installed")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PICTURES = Path(__file__).parent.parent / "build" / "browser"


def serve(*options):
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}                                       # the bits of a dream are those of one thread, here and in this process
    process = subprocess.Popen([sys.executable, "-m", "seqdream.cli", "explore", "FordA", "--model", "paper", "--port", str(port), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True)
    deadline = time.time() + 90
    while time.time() < deadline:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0: return process, f"http://127.0.0.1:{port}/"
        assert process.poll() is None, process.stdout.read()
        time.sleep(.1)
    raise TimeoutError("the page was not served within 90 s")


def end(process):
    os.killpg(process.pid, signal.SIGINT)
    try: process.wait(20)
    finally:
        if process.poll() is None: os.killpg(process.pid, signal.SIGKILL)


class Screen:
    "The page, and what people look for on it."
    def __init__(self, page): self.page = page
    def button(self, name): return self.page.get_by_role("button", name=name, exact=True)
    plane = property(lambda self: self.page.locator(".sd-clickable img"))
    walk = property(lambda self: self.page.locator(".sd-canvas img").nth(1))
    def says(self): return self.page.locator(".sd-says, .sd-error").inner_text()
    def until(self, text, timeout=60): self.page.wait_for_function("t => [...document.querySelectorAll('.sd-says, .sd-error')].some(e => new RegExp(t).test(e.textContent))", arg=text, timeout=timeout * 1000)
    def keep(self, name): PICTURES.mkdir(parents=True, exist_ok=True); self.page.screenshot(path=PICTURES / f"{name}.png")
    def call(self): return self.page.locator("textarea").input_value()


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


@pytest.fixture()
def screen(chromium, address):
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address.rstrip("/"))
    page = context.new_page()
    page.outside = []
    page.on("request", lambda r: page.outside.append(r.url) if not re.match(r"(https?|wss?)://127\.0\.0\.1|data:|blob:", r.url) else None)
    page.goto(address, timeout=90_000)
    page.wait_for_selector(".sd-clickable img", timeout=90_000)
    yield Screen(page)
    assert not page.outside, "the page asked for something elsewhere"
    context.close()


def test_browser_class_and_region_by_mouse_a_slider_by_keyboard_and_the_call_run_again(screen):
    page = screen.page
    screen.keep("1-first")
    page.get_by_label("class", exact=True).select_option("class 0 (label -1)")
    screen.button("centre").click()
    handle = page.get_by_text("steps", exact=True).locator("xpath=../..").locator("[role=slider]").first
    handle.focus()
    for _ in range(5): page.keyboard.press("ArrowLeft")
    before = screen.walk.screenshot()
    screen.button("Dream").click(); screen.until("SD centre of class 0")
    assert screen.walk.screenshot() != before
    assert "target_class=0" in screen.call() and "region='centre'" in screen.call()
    steps = int(re.search(r"steps=(\d+)", screen.call())[1])
    assert steps < 100, "the keyboard moved the slider"
    screen.button("copy call").click()
    page.wait_for_function("async t => (await navigator.clipboard.readText()) === t", arg=screen.call(), timeout=10_000)
    with page.expect_download() as got: screen.button("CSV").click()
    table = np.genfromtxt(got.value.path(), delimiter=",", skip_header=1)
    names = {}
    exec(page.evaluate("navigator.clipboard.readText()"), names)
    assert np.array_equal(table[:, 2].astype(np.float32), names["d"].x[0, 0].numpy()), "the call gives the same bits in another process"
    for label, magic in (("SVG", b"<?xml"), ("GIF", b"GIF8")):
        with page.expect_download() as got: screen.button(label).click()
        assert Path(got.value.path()).read_bytes().startswith(magic)
    screen.keep("2-dreamt")


def test_browser_click_the_plane_by_mouse_and_by_keyboard(screen):
    page, box = screen.page, screen.plane.bounding_box()
    screen.plane.click(position={"x": .35 * box["width"], "y": .4 * box["height"]})
    screen.until("SD picked|SD .* of class 1: ")
    assert "region=[" in screen.call()
    first = screen.call()
    screen.keep("3-clicked")
    page.locator(".sd-clickable").focus()
    for _ in range(4): page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("t => document.querySelector('textarea').value !== t && document.querySelector('textarea').value.includes('region=[')", arg=first, timeout=60_000)
    target = [float(v) for v in re.search(r"region=\[(.*?)\]", screen.call())[1].split(",")]
    assert target != [float(v) for v in re.search(r"region=\[(.*?)\]", first)[1].split(",")]
    screen.keep("4-picked-by-keyboard")


def test_browser_moves_while_it_dreams_stops_and_starts_over(screen):
    page = screen.page
    page.get_by_label("method", exact=True).select_option("grounded")
    screen.button("beyond").click()
    handle = page.get_by_text("steps", exact=True).locator("xpath=../..").locator("[role=slider]").first
    handle.focus(); page.keyboard.press("End")
    began = time.time()
    source = screen.walk.get_attribute("src")
    screen.button("Dream").click()
    seen = set()
    while len(seen) < 6 and time.time() - began < 60: seen.add(screen.walk.get_attribute("src")); time.sleep(.02)
    assert len(seen - {source}) >= 4, "several pictures while it runs"
    screen.keep("5-under-way")
    screen.button("Stop").click(); screen.until("stopped after")
    assert int(re.search(r"stopped after (\d+)", screen.says())[1]) < 300
    screen.button("Dream").click(); screen.until("under way"); screen.button("centre").click(); screen.button("Dream").click()      # a second click starts over
    screen.until("grounded centre of class 1")
    assert page.locator(".sd-table tr").count() == 2 and page.locator("text=3:").count() == 0


def test_browser_bad_settings_show_their_message(screen):
    screen.page.get_by_label("k", exact=True).fill("two"); screen.page.keyboard.press("Enter")
    screen.button("Dream").click(); screen.until("give a number")
    assert screen.page.locator("[role=alert]").count() == 1
    screen.keep("6-wrong")
    screen.page.get_by_label("k", exact=True).fill(""); screen.page.keyboard.press("Enter")
    screen.button("beyond").click(); screen.button("Dream").click(); screen.until("there are centre, max")


def test_browser_dark_page(chromium):
    process, url = serve("--dark")
    try:
        page = chromium.new_page(viewport={"width": 1280, "height": 720})
        page.goto(url, timeout=90_000); page.wait_for_selector(".sd-clickable img", timeout=90_000)
        from PIL import Image
        screen, deadline = Screen(page), time.time() + 30
        while time.time() < deadline and np.asarray(Image.open(io.BytesIO(screen.walk.screenshot())).convert("L")).mean() > 80: time.sleep(.2)
        assert np.asarray(Image.open(io.BytesIO(screen.walk.screenshot())).convert("L")).mean() < 80
        screen.button("Dream").click(); screen.until("of class 1: ")
        screen.keep("7-dark")
    finally: end(process)
