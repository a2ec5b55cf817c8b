"""The chat page in a real browser: answers, over serve_nudged.py's application, and over a server that says what a test wants."""

import threading

import pytest
from chat_page import END, ENTER, ESCAPE, LIMIT, NUDGED, RIGHT, Chat
from chat_stub import MODELS, answer, chunk, end
from served_pair import BASE, NUDGING, in_this_process, settings_over
from starlette.responses import JSONResponse
from waiting import wait_until

pytestmark = pytest.mark.slow


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
