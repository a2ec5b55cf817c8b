"""Pages in a real browser: Debian's chromium, headless, driven by selenium."""

import contextlib
import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import needs

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator:
    """A browser with a new profile in this folder; without one, the test that asks is left out."""
    needs.programs("chromium", "chromedriver", packages="chromium chromium-driver", why="no browser to open pages in")
    webdriver = importlib.import_module("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield opened
    finally:
        opened.quit()


class Page:
    """A page that is open in the browser."""

    def __init__(self, browser, url: str, *, width: int = 1200, height: int = 900, dark: bool = False):
        self.browser = browser
        self.view(width, height, dark)
        browser.get_log("browser")
        browser.get(url)

    def view(self, width: int, height: int, dark: bool) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def js(self, code: str, *arguments):
        return self.browser.execute_script(code, *arguments)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def console(self) -> list[dict]:
        """Warnings and errors since this was last asked."""
        return [entry for entry in self.browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def too_faint(self, *selectors: str) -> list:
        """Which first elements of these selectors stand out by less than 4.5 to 1, with the ratio."""
        return [(selector, ratio) for selector, ratio in self.js(CONTRASTS, selectors) if ratio < 4.5]


CONTRASTS = """
const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const parts = (c) => c.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
const behind = (e) => { const c = parts(getComputedStyle(e).backgroundColor);
  return c.length === 4 && c[3] === 0 ? behind(e.parentElement) : c; };
return arguments[0].map((selector) => {
  const e = document.querySelector(selector), style = getComputedStyle(e);
  const one = luminance(parts(e.closest("svg") ? style.fill : style.color)), two = luminance(behind(e));
  return [selector, (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05)]; });
"""
