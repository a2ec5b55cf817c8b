"""The chat page in a real browser: over serve_nudged.py's application, and over a server that answers what a test says."""

import json
import random
import threading

import pytest
from browsers import Page
from chat_stub import MODELS, ChatStub, answer, chunk, end, event
from served_pair import BASE, NUDGING, in_this_process, settings_over
from starlette.responses import JSONResponse, PlainTextResponse
from waiting import wait_until

pytestmark = pytest.mark.slow
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


@pytest.fixture(scope="module")
def one_stub():
    started = ChatStub()
    yield started
    started.stop()


@pytest.fixture
def stub(one_stub):
    one_stub.forget()
    return one_stub


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


def test_over_the_real_server(browser, server, monkeypatch):
    monkeypatch.setenv("PAGE_TEST_KEY", "a-real-key")
    with in_this_process(settings_over(server.host, api_key_env="PAGE_TEST_KEY", max_token_total=60)) as served:
        page = Chat(browser, served)
        assert page.js("return document.activeElement.id") == "key"
        page.press("a-real-key", ENTER)
        page.until_text("#models", [f"{BASE}, nudged by {NUDGING}"])
        served.http.headers["Authorization"] = "Bearer a-real-key"
        compare_with_whole_replies(page, served)
        page.js("sessionStorage.clear()")


def compare_with_whole_replies(page, served):
    """Two questions, side by side: the page shows what whole replies hold."""
    page.console()  # the refusal without a key
    assert page.texts("#threshold-value") == ["0.40"]
    page.find("#threshold").send_keys(RIGHT)
    page.click("#side")
    page.ask("How many days are in two weeks?")
    page.ask("Are you sure?")
    assert page.texts(".error") == [""] * 6
    turns = [{"role": "user", "content": "How many days are in two weeks?"}]
    for number, question in enumerate(("Are you sure?", None)):
        columns, tokens = page.texts(f".card:nth-child({number + 1}) .answer"), []
        for model, shown in zip(("pair@base", "pair@nudging", "pair@0.45"), columns, strict=True):
            body = served.post("/v1/chat/completions", {"model": model, "messages": turns}).json()
            assert shown == body["choices"][0]["message"]["content"] and shown
            tokens.append(f"{body['usage']['completion_tokens']:,}\u00a0tokens")
        marked = "".join(page.texts(f".card:nth-child({number + 1}) mark"))
        assert "".join(marked.split()) == "".join("".join(body["nudging"]["words"]).split()) != ""
        notes = page.texts(f".card:nth-child({number + 1}) .notes")
        assert all(count in note for count, note in zip(tokens, notes, strict=True))
        assert f" · {100 * body['nudging']['rate']:.1f}\u00a0% nudged · " in notes[2]
        turns += [{"role": "assistant", "content": shown}, {"role": "user", "content": question}]
    assert page.console() == []


def test_a_streamed_answer_with_marks(browser, stub):
    gate = threading.Event()
    stub.reply = lambda body: [
        *map(chunk, NUDGED[:5]),
        b": keep-alive\n\n",
        gate,
        *map(chunk, NUDGED[5:]),
        *end(0.5, 1234),
    ]
    page = Chat(browser, stub)
    assert page.texts("h1, #models") == ["Chat with pair", "demo-base, nudged by demo-aligned"]
    page.ask("How many?", answers=False)
    page.until_text(".answer", ["There are 14 days in"])
    cursor = "return getComputedStyle(document.querySelector('.answer'), '::after').animationName"
    assert page.js(cursor) == "blink"
    still = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", still)
    assert page.js(cursor) == "none"
    assert page.texts("mark")[1:] == ["There are", "in"]
    assert page.texts("#send") == ["Stop"] and page.texts("#status") == [""]
    assert page.find(".column").get_attribute("aria-busy") == "true"
    gate.set()
    page.until_idle()
    assert page.texts(".answer") == ["There are 14 days in two weeks.\n"]
    assert page.texts("#log mark") == ["There are", "in two weeks", "."]  # one element for what was written in one go
    assert page.js("return document.querySelector('.answer').childNodes.length") == 7
    assert (
        page.texts(".notes")[0]
        .replace("\u00a0", " ")
        .startswith("stop: nudging model stop · 50.0 % nudged · 1,234 tokens · ")
    )
    assert "There are 14 days in two weeks." in page.texts("#status")[0]
    assert page.find(".column").get_attribute("aria-busy") == "false"
    assert stub.requests == [
        {
            "model": "pair",
            "messages": [{"role": "user", "content": "How many?"}],
            "top_prob_thres": 0.4,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    hover(page)
    assert page.console() == []


def hover(page):
    """What marks tell: under the mouse, and with the focus."""
    mouse = page.browser.execute_cdp_cmd
    asked = []
    for x, y in page.js(
        "return [...document.querySelectorAll('#log mark')].map(m => { const r = m.getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]; })"
    ):
        mouse("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        wait_until(lambda: page.find("#tip").is_displayed(), "the mouse is on a mark", limit=LIMIT)
        asked.append(page.texts("#tip")[0].replace("\u00a0", " "))
    top = "The base model's top probability here: "
    assert asked == ["The base model was not asked here.", f"{top}31.4 %", f"{top}25.0 %"]
    mouse("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 2, "y": 2})
    wait_until(lambda: not page.find("#tip").is_displayed(), "the mouse has left", limit=LIMIT)
    page.js("document.querySelector('#log mark').focus()")
    page.press(RIGHT)
    assert page.texts("#tip")[0].startswith(f"{top}31.4") and page.find("#tip").is_displayed()
    assert page.js("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    box = page.js("const r = document.getElementById('tip').getBoundingClientRect(); return [r.left, r.right]")
    assert 0 <= box[0] < box[1] <= 1200
    page.press(ESCAPE)
    assert not page.find("#tip").is_displayed()


def test_the_slider_changes_the_request_and_the_default_is_the_servers(browser, stub):
    stub.about = MODELS | {"top_prob_thres": 0.33}
    page = Chat(browser, stub)
    assert page.texts("#threshold-value") == ["0.33"]  # between two steps
    page.ask("one")
    slider = page.find("#threshold")
    slider.send_keys(RIGHT)
    assert page.texts("#threshold-value") == ["0.40"]
    slider.send_keys(RIGHT, RIGHT)
    page.ask("two")
    slider.send_keys(END)
    assert slider.get_attribute("aria-valuetext") == "1.00"
    page.ask("three")
    assert [body["top_prob_thres"] for body in stub.requests] == [0.33, 0.5, 1]
    assert page.texts("h3 small") == ["threshold 0.33", "threshold 0.50", "threshold 1.00"]


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop_aborts_the_request_and_keeps_what_has_come(browser, stub, how):
    stub.reply = lambda body: [chunk(("Once", "nudging", None)), chunk((" upon", "base", 0.9)), None]
    page = Chat(browser, stub)
    page.ask("A tale.", answers=False)
    page.until_text(".answer", ["Once upon"])
    page.js("document.getElementById('send').dispatchEvent(new MouseEvent('click', {detail: 2, cancelable: true}))")
    assert page.texts("#send") == ["Stop"] and stub.left == []  # a double click on Send is no Stop
    if how == "button":
        page.click("#send")
    else:
        page.press(ESCAPE)
    page.until_idle()
    wait_until(lambda: stub.left == ["pair"], "the server sees that the client has left", limit=LIMIT)
    assert page.texts(".answer") == ["Once upon"] and page.texts(".notes")[0].startswith("stopped by you · ")
    stub.reply = lambda body: answer((" a time", "base", 0.9))
    page.ask("Go on.")
    assert [m["content"] for m in stub.requests[-1]["messages"]] == ["A tale.", "Once upon", "Go on."]


def test_a_new_chat_ends_the_old_one(browser, stub):
    stub.reply = lambda body: [chunk(("Once", "nudging", None)), None]
    page = Chat(browser, stub)
    page.ask("A tale.", answers=False)
    page.until_text(".answer", ["Once"])
    gate = threading.Event()
    stub.reply = lambda body: [chunk(("Yes.", "base", 0.9)), gate, *end()]
    page.js(
        "byId('new').click(); window.cards = log.children.length; question.value = 'Is it so?'; byId('ask').requestSubmit()"
    )
    assert page.js("return window.cards") == 0
    wait_until(lambda: stub.left == ["pair"], "the server sees that the client has left", limit=LIMIT)
    page.until_text(".answer", ["Yes."])
    assert page.texts("#send") == ["Stop"]  # the old answer's end is not this one's
    gate.set()
    page.until_idle()
    assert stub.requests[-1]["messages"] == [{"role": "user", "content": "Is it so?"}]
    assert page.texts(".answer") == ["Yes."] and page.texts("h2") == ["Question 1"]


def test_side_by_side(browser, stub):
    together = threading.Barrier(3, timeout=60)
    started = threading.Event()

    def reply(body):
        threading.Thread(target=lambda: together.wait() in (0, 1, 2) and started.set(), daemon=True).start()
        by = "nudging" if body["model"] == "pair@nudging" else "base"
        return [
            chunk((f"I am {body['model']}", by, 0.6)),
            started,
            chunk((".", "nudging", 0.1)),
            *end(stop_reason="length"),
        ]

    stub.reply = reply
    page = Chat(browser, stub)
    page.click("#side")
    page.ask("Who?")
    assert page.texts("h3") == ["Base model alone demo-base", "Nudging model alone demo-aligned", "Pair threshold 0.40"]
    assert page.texts(".answer") == ["I am pair@base.", "I am pair@nudging.", "I am pair."]
    assert page.texts("#log mark") == ["."]  # a model alone takes over nowhere
    assert {body["model"]: body.get("top_prob_thres") for body in stub.requests} == {
        "pair": 0.4, "pair@base": None, "pair@nudging": None
    }  # fmt: skip
    where = "return [...document.querySelectorAll('.column')].map(c => c.getBoundingClientRect()).map(r => [r.x, r.y])"
    wide = page.js(where)
    assert len({x for x, _ in wide}) == 3 and len({y for _, y in wide}) == 1
    page.view(320, 600, False)
    narrow = page.js(where)
    assert len({x for x, _ in narrow}) == 1 and len({y for _, y in narrow}) == 3
    assert page.cut_off() == []
    stub.reply = lambda body: answer(("Again.", "base", 0.9))
    stub.requests.clear()
    page.ask("And now?")
    asked = [[m["content"] for m in body["messages"]] for body in stub.requests]
    assert asked == [["Who?", "I am pair.", "And now?"]] * 3  # the pair's answer, in all columns


def test_an_answer_that_goes_on_and_on_leaves_the_others_in_sight(browser, stub):
    gate = threading.Event()
    more = [*(chunk((f"line {number}\n", "base", 0.9)) for number in range(60, 120)), *end()]
    long = [*(chunk((f"line {number}\n", "base", 0.9)) for number in range(60)), gate, *more]
    stub.reply = lambda body: long if body["model"] == "pair@base" else answer(*NUDGED)
    page = Chat(browser, stub)
    page.click("#side")
    page.ask("How many?", answers=False)
    below = "const box = document.querySelector('.answer'); return box.scrollHeight - box.clientHeight - box.scrollTop"
    wait_until(lambda: "line 59" in page.texts(".answer")[0] and page.js(below) < 2, "the column follows", limit=LIMIT)
    page.js("const box = document.querySelector('.answer'); box.focus(); box.scrollBy(0, -200)")
    active = page.js("const e = document.activeElement; return [e.className, e.getAttribute('tabindex')]")
    assert active == ["text answer", "0"]  # a stop of the Tab key in every browser
    wait_until(lambda: page.js("return !turns[0].answers[0].follower.follows"), "the reader has scrolled", limit=LIMIT)
    gate.set()
    page.until_idle()
    assert page.js(below) > 200 and page.js("return document.querySelector('.answer').clientHeight") < 450
    assert page.js("return document.querySelector('#log mark').getBoundingClientRect().top") > 0
    page.js("document.querySelector('#log mark').focus()")
    assert page.find("#tip").is_displayed()
    page.view(320, 600, False)
    page.until_frame()
    assert page.cut_off() == []


HOSTILE = (
    "<script>window.hacked = 1</script></div></body><img src=x onerror='window.hacked = 2'> \u202egnp.\u2066 \x1b[31m \x00 "
    "<!-- {{ 7 * 7 }} &lt; " + "W" * 3000
)


def test_what_models_and_servers_write_is_no_markup(browser, stub):
    stub.about = MODELS | {"base_model": HOSTILE, "nudging_model": HOSTILE}
    pieces = [(HOSTILE[:5], "nudging", None), (HOSTILE[5:], "nudging", None), (HOSTILE, "base", 0.9)]
    stub.reply = lambda body: (
        answer(*pieces, stop_reason=HOSTILE)
        if "pair" == body["model"]
        else JSONResponse({"error": {"message": HOSTILE}}, 400)
    )
    page = Chat(browser, stub, width=320)
    page.click("#side")
    page.ask("<b>bold?</b>")
    shown = (
        HOSTILE.replace("\u202e", "\\u202e")
        .replace("\u2066", "\\u2066")
        .replace("\x1b", "\\x1b")
        .replace("\0", "\\x00")
    )
    assert page.texts(".answer")[-1] == shown * 2 and page.texts("#log mark") == [shown]
    assert page.texts(".question") == ["<b>bold?</b>"]
    assert page.js("return window.hacked === undefined && !document.querySelector('#log img, #log script, #log b')")
    everything = page.js("return document.body.textContent")
    assert not {"\u202e", "\u2066", "\x1b", "\0"} & set(everything)
    page.js("document.querySelector('#log mark').focus()")
    assert page.cut_off() == []
    log = [entry for entry in page.console() if "status of 400" not in entry["message"]]
    assert log == []


def test_a_key_where_the_server_asks_for_one(browser, stub):
    stub.key = "right-key"
    page = Chat(browser, stub, width=320)
    assert "no valid API key" in page.texts("#models")[0]
    page.find("#question").send_keys("Hello?", ENTER)
    page.until_idle()
    assert page.texts(".error") == ["The server refuses (status 401): no valid API key"]
    assert page.js("return document.activeElement.id") == "key"
    assert page.cut_off() == []
    page.press("wrong-key", ENTER)
    wait_until(lambda: "no valid API key" in page.texts("#key-note")[0], "a wrong key is told", limit=LIMIT)
    page.press("schlüssel", ENTER)
    wait_until(lambda: "ASCII" in page.texts("#key-note")[0], "no key at all is told", limit=LIMIT)
    page.press(CONTROL, "a", CONTROL, stub.key, ENTER)
    wait_until(lambda: not page.find("#key-form").is_displayed(), "the key is taken", limit=LIMIT)
    assert page.texts("#models") == ["demo-base, nudged by demo-aligned"]
    page.click(".again")
    page.until_idle()
    assert page.texts(".answer") == ["Yes."] and page.texts(".question") == ["Hello?"]
    kept = page.js("return [Object.values(sessionStorage), localStorage.length, document.cookie, location.href]")
    assert kept == [[stub.key], 0, "", stub.url]
    page = Chat(browser, stub)
    page.ask("And now?")
    assert page.texts(".answer") == ["Yes."]
    page.js("sessionStorage.clear()")


START = chunk(("Some", "nudging", None))
TROUBLE = {
    "an error in mid-stream": ([START, event({"error": {"message": "the base model left"}})], "the base model left"),
    "an error that is a text": ([START, event({"error": "out of memory"})], "out of memory"),
    "no [DONE]": ([START, *end()[:-1]], "before the answer's end (no [DONE] came)"),
    "half an event": ([START, b'data: {"choices": [{"del'], "before the answer's end (no [DONE] came)"),
    "nothing at all": ([], "before the answer's end (no [DONE] came)"),
    "no JSON": ([START, b"data: <html>\n\n"], "what is no part of an answer: <html>"),
    "no object": ([START, b"data: null\n\n"], "what is no part of an answer: null"),
    "full": (
        JSONResponse({"error": {"message": "32 answers are being written"}}, 429, {"Retry-After": "7"}),
        "(status 429): 32 answers are being written (try again in 7 s)",
    ),
    "a proxy's page": (PlainTextResponse("<html>Bad gateway</html>", 502), "(status 502): <html>Bad gateway</html>"),
    "no words": (PlainTextResponse("", 500), "(status 500): no reason is told"),
    "no stream": (JSONResponse({"choices": []}), "did not answer with a stream (application/json)"),
}


def test_errors_stand_at_the_answer_and_the_question_can_be_sent_again(browser, stub):
    page = Chat(browser, stub)
    page.ask("First?")
    for number, (name, (reply, words)) in enumerate(TROUBLE.items()):
        stub.reply = lambda body, reply=reply: reply
        page.ask(name)
        (error,) = page.texts(".card:last-child .error")
        assert words in error, name
        started = isinstance(reply, list) and START in reply
        assert page.texts(".card:last-child .answer") == ["Some" if started else ""], name
        assert "failed · " in page.texts(".notes")[-1]
        assert words in page.texts("#status")[0]
        assert len(page.texts(".question")) == number + 2
    stub.reply = lambda body: answer(("Better.", "base", 0.9))
    page.find(".card:last-child .again").click()
    page.until_idle()
    assert page.texts(".card:last-child .answer") == ["Better."]
    assert not page.find(".card:last-child .error").is_displayed()
    assert not page.find(".card:last-child .again").is_displayed()
    asked = [m["content"] for m in stub.requests[-1]["messages"]]
    assert asked == ["First?", "Yes.", list(TROUBLE)[-1]]  # what failed is not part of the conversation


def test_a_server_that_is_gone(browser):
    server = ChatStub()
    page = Chat(browser, server)
    server.stop()
    page.ask("Are you there?")
    assert "The server cannot be reached" in page.texts(".error")[0]


def test_a_second_question_goes_with_the_conversation_and_the_system_prompt(browser, stub):
    page = Chat(browser, stub)
    assert not page.find("#system").is_displayed()
    page.click("summary")
    page.find("#system").send_keys("Be brief.")
    assert page.texts("#system-used") == ["(in use)"]
    stub.reply = lambda body: answer((" Yes,\n", "nudging", None), ("it is. ", "base", 0.9))
    page.find("#question").send_keys("  line one", SHIFT, ENTER, SHIFT, "line two ", ENTER)
    page.until_idle()
    page.ask(" ", answers=False)  # nothing to ask
    page.ask("Really?")
    assert [(m["role"], m["content"]) for m in stub.requests[-1]["messages"]] == [
        ("system", "Be brief."),
        ("user", "line one\nline two"),
        ("assistant", " Yes,\nit is. "),
        ("user", "Really?"),
    ]
    assert len(stub.requests) == 2


def test_an_empty_answer(browser, stub, served):
    stub.reply = lambda body: answer()
    page = Chat(browser, stub)
    page.ask("Nothing?")
    assert page.texts(".answer") == ["(empty)"]
    stub.reply = lambda body: answer(("Yes.", "base", 0.9))
    page.ask("Really?")
    asked = stub.requests[-1]["messages"]
    assert [m["content"] for m in asked] == ["Nothing?", "", "Really?"]
    assert served.post("/v1/chat/completions", {"model": "pair", "messages": asked, "max_tokens": 3}).status_code == 200


def test_the_keyboard_alone(browser, stub):
    stub.reply = lambda body: answer(*NUDGED)
    page = Chat(browser, stub)
    assert page.js("return document.activeElement.id") == "question"
    page.press("How many?", ENTER)
    page.until_idle()
    page.press("Draft", SHIFT, TAB, SHIFT)
    focused = (
        "const e = document.activeElement; return [e.id || e.className || e.tagName, getComputedStyle(e).outlineStyle]"
    )
    reached = []
    while not reached or (reached[-1] != "question" and len(reached) < 20):
        name, outline = page.js(focused)
        reached.append(name)
        assert outline != "none" or name == "BODY"
        page.press(TAB)
    assert reached == ["MARK", "question"]
    for _ in range(8):
        name, outline = page.js(focused)
        reached.append(name)
        assert outline != "none" or name == "BODY"
        page.press(TAB)
    assert [name for name in reached if name != "BODY"][2:8] == ["send", "threshold", "side", "SUMMARY", "skip", "new"]


def test_texts_stand_out_in_light_and_dark(browser, stub):
    stub.reply = lambda body: [*map(chunk, NUDGED), event({"error": "gone"})]
    for dark in (False, True):
        page = Chat(browser, stub, dark=dark)
        page.ask("How many?")
        page.js("document.querySelector('#log mark').focus()")
        background = page.js("return getComputedStyle(document.body).backgroundColor")
        assert (int(background[4:].split(",")[0]) < 60) == dark
        faint = page.too_faint(
            *(
                "h1",
                "h2",
                "h3",
                "h3 small",
                "#models",
                ".legend",
                "#log mark",
                ".answer",
                ".error",
                ".notes",
                ".question",
            ),
            *(".again", "#send", "#new", "#keys", "#question", "output", "summary", "#tip"),
        )
        assert faint == []


def test_it_scrolls_with_the_text_while_the_reader_is_at_the_bottom(browser, stub):
    gates = [threading.Event(), threading.Event()]
    lines = [chunk((f"line {number}\n", "base", 0.9)) for number in range(120)]
    stub.reply = lambda body: [*lines[:60], gates[0], *lines[60:90], gates[1], *lines[90:], *end()]
    page = Chat(browser, stub)
    below = "return document.documentElement.scrollHeight - innerHeight - scrollY"
    page.ask("Much?", answers=False)
    wait_until(lambda: "line 59" in page.texts(".answer")[0] and page.js(below) < 2, "the page follows", limit=LIMIT)
    page.js("scrollBy(0, -400)")
    wait_until(
        lambda: page.js("return !pageFollower.follows"), "the page sees that the reader has scrolled", limit=LIMIT
    )
    place = page.js("return scrollY")
    gates[0].set()
    wait_until(lambda: "line 89" in page.texts(".answer")[0], "more has come", limit=LIMIT)
    page.until_frame()
    assert page.js("return scrollY") == place
    page.js("scrollTo(0, document.documentElement.scrollHeight)")
    wait_until(lambda: page.js("return pageFollower.follows"), "the reader is back at the bottom", limit=LIMIT)
    gates[1].set()
    page.until_idle()
    wait_until(lambda: page.js(below) < 2, "the page follows again", limit=LIMIT)
    assert page.js("return document.querySelector('.answer').childNodes.length") == 1


def test_an_answer_is_copied_as_it_was_written(browser, stub):
    stub.reply = lambda body: answer(("a\u202e", "nudging", None), (" <b>\n", "base", 0.9))
    page = Chat(browser, stub)
    page.ask("What?")
    grant = {"origin": stub.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    page.click(".column button.minor")
    page.until_text(".column button.minor:not(.again)", ["Copied"])
    read = "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
    assert page.browser.execute_async_script(read) == "a\u202e <b>\n"


READ = """
const [cases, done] = arguments;
const read = async (parts) => {
  const body = new ReadableStream({ start(to) {
    for (const part of parts) to.enqueue(new Uint8Array(part));
    to.close();
  } });
  const events = [];
  for await (const data of eventsOf(body)) events.push(data);
  return events;
};
Promise.all(cases.map(read)).then(done);
"""


def test_a_stream_is_read_alike_wherever_the_network_cuts_it(browser, stub):
    rng = random.Random(0)
    texts = ["há", "日本語", "👩‍👩‍👧", "\u2028", "", ": no comment", "data: inside"]
    cases, expected = [], []
    for _ in range(300):
        line = rng.choice(["\n", "\r\n", "\r"])
        events = [json.dumps({"t": rng.choice(texts)}, ensure_ascii=False) for _ in range(rng.randrange(4))]
        events += [f"two{line}data: lines"] * rng.randrange(2) + ["[DONE]"]
        space = rng.choice(["data: ", "data:"])
        noise = rng.choice(["", f": keep-alive{line}{line}", f"event: x{line}id: 7{line}{line}", f"retry: 5{line}"])
        last = rng.choice(["", line, line + line])
        stream = (line + line + noise).join(space + text for text in events) + last
        raw = (rng.choice(["", "\ufeff"]) + noise + stream).encode()
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice([0, 1, 3, len(raw)])))
        cases.append([list(raw[a:b]) for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)])
        expected.append([text.replace(line + "data: ", "\n") for text in events])
    page = Chat(browser, stub)
    found = page.browser.execute_async_script(READ, cases)
    assert [(case, want, got) for case, want, got in zip(cases, expected, found, strict=True) if want != got] == []
    word = 'data: {"choices": [{"delta": {"content": "né"}}]}\n\n'.encode()
    cut = word.index("é".encode()) + 1
    stub.reply = lambda body: [word[:cut], word[cut:], *end()]
    page.ask("How?")
    assert page.texts(".answer") == ["né"]
    assert "of some words it is not known who wrote them" in page.texts(".notes")[0]


@pytest.mark.parametrize("name", ["a/b c", "päir", '"><script>x</script>'])
def test_any_served_name(browser, stub, name):
    stub.name = name
    page = Chat(browser, stub)
    page.ask("Hello?")
    assert stub.requests[0]["model"] == name and page.texts("h1") == [f"Chat with {name}"]
    assert stub.requests[0]["top_prob_thres"] == 0.4 and page.console() == []
