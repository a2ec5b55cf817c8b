"""The chat page in a browser, as tests use it."""

from browsers import Page
from waiting import wait_until

LIMIT = 60  # seconds
TAB, SHIFT, CONTROL, ENTER, ESCAPE, END, LEFT, RIGHT = "\ue004 \ue008 \ue009 \ue007 \ue00c \ue010 \ue012 \ue014".split()
NUDGED = [
    ("There", "nudging", None),
    (" are ", "nudging", None),
    ("14", "base", 0.8),
    (" days", "base", 0.7),
    (" in", "nudging", 0.314),
    (" two weeks", "nudging", 0.314),
    (".\n", "nudging", 0.25),
]


class Chat(Page):
    """The page, open in the browser."""

    def __init__(self, browser, server, **view):
        super().__init__(browser, server.url, **view)
        wait_until(
            lambda: self.texts("#models") != ["A base model, nudged by an aligned one"],
            "models are listed",
            limit=LIMIT,
        )

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def press(self, *keys):
        self.browser.switch_to.active_element.send_keys(*keys)

    def ask(self, question, answers=True):
        """Ask, and wait for the answers to end."""
        self.find("#question").send_keys(question, ENTER)
        if answers:
            self.until_idle()

    def cut_off(self):
        """What is wider than its place: the window, and the cards, which hide what overflows them."""
        return self.js(
            "return [document.documentElement, ...document.querySelectorAll('body *')]"
            ".filter((e) => !e.closest('.said, textarea, input') && e.clientWidth && e.scrollWidth > e.clientWidth)"
            ".map((e) => e.id || e.className || e.tagName)"
        )

    def until_frame(self):
        """Wait until what was done is drawn."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def until_idle(self):
        wait_until(
            lambda: self.texts("#send") == ["Send"] and self.texts("#status") != [""], "answers end", limit=LIMIT
        )

    def until_text(self, selector, texts):
        wait_until(lambda: self.texts(selector) == texts, f"{texts} in {selector}", limit=LIMIT)
