"""The chat page in a real browser: keys, errors, conversations, and how it looks, over a server that says what a test wants."""

import json
import random
import threading

import pytest
from chat_page import CONTROL, ENTER, LIMIT, NUDGED, SHIFT, TAB, Chat
from chat_stub import ChatStub, answer, chunk, end, event
from starlette.responses import JSONResponse, PlainTextResponse
from waiting import wait_until

pytestmark = pytest.mark.slow


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
