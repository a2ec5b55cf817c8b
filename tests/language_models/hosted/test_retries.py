"""How long a failed request is sent again: by tries, by time, and by what the server asks for."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from language_models.hosted import retries
from language_models.hosted.retries import LONGEST_WAIT, RetryPolicy, asked_to_wait, persist
from language_models.interface import TransientError, Usage

NOW = 1_800_000_000
OUTAGE = 300.0
POLICY = RetryPolicy(8, OUTAGE, OUTAGE)


def limit(retry_after: float | None = None) -> TransientError:
    return TransientError("lm at here: status 429: slow down", 429, retry_after=retry_after)


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return 1000 + self.now

    def sleep(self, seconds: float) -> None:
        assert 0 <= seconds < math.inf
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retries, "time", clock)
    return clock


def failing(errors):
    """A function that raises these errors in turn, and then answers."""
    left = iter(errors)

    def attempt() -> str:
        for error in left:
            raise error
        return "answer"

    return attempt


# --- what the server asks for ---


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": " 3 "}, 3),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "60"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60),
        ({"retry-after-ms": "-1", "retry-after": "60"}, 60),
        ({"retry-after": formatdate(NOW + 90, usegmt=True), "date": formatdate(NOW, usegmt=True)}, 90),
        ({"retry-after": formatdate(NOW - 90, usegmt=True), "date": formatdate(NOW, usegmt=True)}, None),
        ({"retry-after": "Sunday, 06-Nov-94 08:49:37 GMT", "date": formatdate(784111757, usegmt=True)}, 20),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "1e300"}, 1e7),
        *(
            ({"retry-after": odd}, None)
            for odd in ("0", "-5", "nan", "inf", "-inf", "1e999", "soon", "", "1 2", "Mon, 99 Foo")
        ),
    ],
)
def test_what_a_server_asks_for(headers, seconds):
    assert asked_to_wait(headers) == pytest.approx(seconds)


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=40) | st.floats().map(str)
    )
)
def test_whatever_stands_there_does_no_harm(headers):
    seconds = asked_to_wait(headers)
    assert seconds is None or 0 < seconds <= 1e7


@given(st.integers(1, 10**6), st.integers(-(10**6), 10**6))
def test_a_date_is_by_the_server_s_own_clock(seconds, skew):
    date = formatdate(NOW + skew, usegmt=True)
    assert asked_to_wait({"retry-after": formatdate(NOW + skew + seconds, usegmt=True), "date": date}) == seconds


# --- rate limits: by time ---


def test_a_rate_limit_is_waited_for_as_long_as_max_outage_says(clock):
    usage = Usage()
    with pytest.raises(TransientError, match=r"slow down; --max_outage 300 \(seconds\) is over"):
        persist(failing([limit()] * 1000), POLICY, usage)
    assert clock.now == pytest.approx(OUTAGE) and usage.retries == len(clock.slept) > 30


def test_one_that_passes_in_time_is_none(clock):
    assert persist(failing([limit()] * 30), POLICY, Usage()) == "answer"
    assert persist(failing([limit(40)] * 7), POLICY, Usage()) == "answer"
    assert clock.slept[-7:] == [40] * 7


def test_what_is_asked_for_beyond_that_ends_at_once(clock):
    with pytest.raises(
        TransientError, match="the server asks to wait for 4000 s, and --max_outage allows 300 s in all"
    ):
        persist(failing([limit(4000)]), POLICY, Usage())
    assert clock.slept == []


def test_what_is_left_of_it_counts(clock):
    with pytest.raises(TransientError, match="asks to wait for 200 s"):
        persist(failing([limit(200)] * 2), POLICY, Usage())
    assert clock.slept == [200]


@pytest.mark.parametrize("policy", [RetryPolicy(8, 0, 0), RetryPolicy(0, 300, 300)])
def test_without_patience_it_ends_at_once(clock, policy):
    with pytest.raises(TransientError, match="slow down"):
        persist(failing([limit()]), policy, Usage())
    assert clock.slept == []


# --- everything else: by tries ---


@pytest.mark.parametrize("status", [None, 408, 409, 500, 503])
def test_other_failures_are_counted(clock, status):
    usage = Usage()
    with pytest.raises(TransientError, match="^down$"):
        persist(failing([TransientError("down", status)] * 20), POLICY, usage)
    assert usage.retries == 8 and clock.now < 40


def test_a_judge_waits_for_what_its_busy_server_asks(clock):
    judge = RetryPolicy(8, rate_limit_seconds=300)
    assert persist(failing([TransientError("busy", 503, retry_after=40)] * 3), judge, Usage()) == "answer"
    assert clock.slept == [40] * 3
    with pytest.raises(TransientError, match="to wait for 400 s, and --max_outage allows 300 s in all"):
        persist(failing([TransientError("busy", 503, retry_after=400)]), judge, Usage())


def test_which_option_is_named():
    gone = TransientError("gone", unreachable=True)
    assert RetryPolicy(8, rate_limit_seconds=300).in_words(gone) == "up to 8 times (--max_retries)"
    assert RetryPolicy(8, 300).in_words(gone) == "for at least 300 s (--max_outage)"


def test_an_outage_is_waited_for_by_time(clock):
    with pytest.raises(TransientError):
        persist(failing([TransientError("gone", unreachable=True)] * 1000), POLICY, Usage())
    assert OUTAGE <= clock.now <= OUTAGE + LONGEST_WAIT


failures = st.one_of(
    st.builds(limit, st.none() | st.floats(0.001, 1e7)),
    st.builds(lambda after: TransientError("down", 503, retry_after=after), st.none() | st.floats(0.001, 1e7)),
    st.just(TransientError("gone", unreachable=True)),
    st.just(TransientError("unreadable")),
)


@given(st.lists(failures, max_size=60), st.floats(0, 400), st.integers(0, 8), st.booleans())
def test_every_wait_ends(errors, outage, tries, forever):
    """Whatever follows whatever, the sum of all waits is bounded, and an answer that comes in time is handed on."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "time", clock)
        until = clock.monotonic() + outage
        policy = RetryPolicy(tries, outage, outage, until=until if forever else math.inf)
        try:
            assert persist(failing(errors * (20 if forever else 1)), policy, Usage()) == "answer"
        except TransientError:
            assert errors
    most = outage if forever else (tries + 1) * (3 * outage + 3 * LONGEST_WAIT * (tries + 1)) + LONGEST_WAIT
    assert clock.now <= most + 1e-6


def test_who_waits_is_told(clock):
    told = []
    persist(failing([limit(3), limit()]), POLICY, Usage(), lambda error, seconds: told.append((error.status, seconds)))
    assert told[0] == (429, 3) and told[1][1] <= 1
