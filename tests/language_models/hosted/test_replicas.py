"""Several servers of one model: who is asked, who is left out, and when it is tried again."""

import json
import subprocess
import sys
import threading
from collections import Counter

import pytest
from doubles import ScriptedServer, completion_reply, free_port
from runs import Running, final_records, gsm8k_rows, nudging_options, one, run_api, run_api_command, write_rows
from waiting import HANG, wait_until

from command.errors import OptionError
from command.options import split_hosts
from language_models.hosted import probe_requests, retries
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.replicas import Replicas, preference
from language_models.hosted.retries import LONGEST_WAIT, RetryPolicy, seconds_to_wait
from language_models.interface import ContextLengthError, ModelError, SamplingParams, TransientError

HOSTS = ["http://a:1/v1", "http://b:1/v1", "http://c:1/v1"]
ASK = SamplingParams(2)
MODELS = {"object": "list", "data": [{"id": "lm", "object": "model", "created": 0, "owned_by": "us"}]}


class Farm:
    """Two servers whose answers a test can switch, the replicas over them, what they warned of, and a clock to set."""

    def __init__(self, reply_server, count=2, **retry_policy):
        self.status = [200] * count
        self.asked = [0] * count
        servers = [reply_server(lambda path, body, i=i: self.reply(i, path)) for i in range(count)]
        self.warnings: list[str] = []
        self.now = 0.0
        endpoints = [OpenAIEndpoint("lm", server.host, request_timeout=HANG) for server in servers]
        self.model = Replicas(endpoints, RetryPolicy(**retry_policy), self.warnings.append, lambda: self.now)

    def reply(self, i, path):
        if path.endswith("/models"):
            return (200, {}, MODELS) if self.status[i] else (200, {}, None)
        self.asked[i] += 1
        if not self.status[i]:
            return 200, {}, None  # the connection is cut
        headers = {} if self.status[i] == 200 else {"retry-after": "0.01"}
        return self.status[i], headers, completion_reply() if self.status[i] == 200 else {"message": "down"}

    def sample_of(self, i):
        """A sample whose own server is the i-th."""
        hosts = [endpoint.host for endpoint in self.model.endpoints]
        return self.model.for_sample(next(n for n in range(1000) if preference(n, hosts)[0] == i))


def test_a_sample_keeps_to_one_server_in_every_process():
    code = f"from language_models.hosted.replicas import preference; print([preference(n, {HOSTS}) for n in range(20)])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"})
    assert json.loads(there.stdout) == [preference(n, HOSTS) for n in range(20)]


def test_samples_spread_evenly_and_those_of_a_lost_server_over_the_others():
    orders = [preference(n, HOSTS) for n in range(3000)]
    first = Counter(order[0] for order in orders)
    second = Counter(order[1] for order in orders if order[0] == 0)
    assert min(first.values()) > 900 and min(second.values()) > 400


def test_one_server_more_moves_only_its_share():
    moved = sum(preference(n, HOSTS)[0] != preference(n, HOSTS[:2])[0] for n in range(3000))
    assert 900 < moved < 1100


def test_every_request_of_a_sample_goes_to_its_server(reply_server):
    farm = Farm(reply_server)
    for _ in range(5):
        assert farm.sample_of(1).complete("Hi", ASK).text == "hello"
    assert farm.asked == [0, 5] and farm.model.usage.requests == 5
    assert farm.model.usage_by_host[farm.model.endpoints[1].host]["requests"] == 5


def test_a_server_that_is_gone_is_left_out_at_once_with_one_warning(reply_server):
    farm = Farm(reply_server)
    farm.status[0] = 0
    completion = farm.sample_of(0).complete("Hi", ASK)
    assert completion.text == "hello" and completion.usage.retries == 1
    for _ in range(5):
        farm.sample_of(0).complete("Hi", ASK)
    assert farm.asked == [1, 6]
    (warning,) = farm.warnings
    assert "cannot be reached" in warning and "its samples go to the other replicas" in warning


def test_it_is_tried_again_by_one_request_after_30_seconds_then_60(reply_server):
    farm = Farm(reply_server)
    farm.status[0] = 0
    sample = farm.sample_of(0)
    sample.complete("Hi", ASK)
    for second, tries in (
        (29, 1),
        (31, 2),
        (32, 2),
        (89, 2),
        (92, 3),
        (205, 3),
        (213, 4),
        (452, 4),
        (454, 5),
        (755, 6),
    ):
        farm.now = second
        sample.complete("Hi", ASK)
        assert farm.asked[0] == tries, second
    farm.status[0] = 200
    farm.now = 1100
    for _ in range(3):
        sample.complete("Hi", ASK)
    assert farm.asked[0] == 9 and farm.warnings[1:] == [f"{farm.model.endpoints[0].where} answers again"]


def test_a_server_that_answers_503_is_left_out_after_three_in_a_row(reply_server):
    farm = Farm(reply_server)
    farm.status[0] = 503
    for _ in range(6):
        assert farm.sample_of(0).complete("Hi", ASK).text == "hello"
    assert farm.asked == [3, 6] and "status 503: down" in farm.warnings[0]


def test_a_cut_connection_alone_does_not_leave_a_server_out(reply_server):
    farm = Farm(reply_server)
    farm.status[0] = 0
    farm.model.endpoints[0].answers = lambda: True
    farm.sample_of(0).complete("Hi", ASK)
    farm.status[0] = 200
    farm.sample_of(0).complete("Hi", ASK)
    assert farm.asked == [2, 1] and not farm.warnings


def test_all_down_is_the_usual_error_after_the_usual_retries(reply_server):
    farm = Farm(reply_server, retries=2)
    farm.status = [503, 503]
    with pytest.raises(ModelError, match="status 503: down"):
        farm.sample_of(0).complete("Hi", ASK)
    assert farm.asked == [3, 3]


def test_a_refusal_is_no_outage(reply_server):
    farm = Farm(reply_server)
    farm.status[0] = 403
    for _ in range(4):
        with pytest.raises(ModelError, match="status 403"):
            farm.sample_of(0).complete("Hi", ASK)
    assert farm.asked == [4, 0] and not farm.warnings


def test_a_prompt_that_does_not_fit_is_asked_once(reply_server):
    long = {"error": {"code": "context_length_exceeded", "message": "too long"}}
    servers = [reply_server(lambda path, body: (400, {}, long)) for _ in range(2)]
    model = Replicas([OpenAIEndpoint("lm", server.host) for server in servers], RetryPolicy(), print)
    with pytest.raises(ContextLengthError):
        model.for_sample(0).complete("Hi", ASK)
    assert sum(len(server.requests) for server in servers) == 1


def test_a_server_that_is_not_up_yet_is_left_out_at_the_start(reply_server):
    server = reply_server(
        lambda path, body: (200, {}, MODELS if path.endswith("/models") else completion_reply(tokens=["hello"]))
    )
    hosts = [f"http://127.0.0.1:{free_port()}/v1", server.host]
    model = Replicas([OpenAIEndpoint("lm", host) for host in hosts], RetryPolicy(), print)
    reports = model.probe(1)
    assert "no server answers there" in reports[0].warnings[0] and reports[1].served_models == ["lm"]
    assert model.endpoints[0].neutral_sampling == model.endpoints[1].neutral_sampling
    assert all(model.for_sample(n).complete("Hi", ASK).text == "hello" for n in range(6))
    assert [report["host"] for report in model.report] == hosts


def test_the_wait_between_tries_is_bounded_however_many_there_were():
    error = TransientError("gone", unreachable=True)
    assert all(seconds_to_wait(error, tries) <= LONGEST_WAIT for tries in (1, 10, 1026, 10**6))


def test_lists_of_hosts():
    assert split_hosts("http://a/v1/, https://b/v1", "--base_host") == ["http://a/v1", "https://b/v1"]
    for bad, said in (
        ("http://a/v1,b:8000", "must be a URL"),
        ("http://a/v1,", "must be a URL"),
        ("http://u:pw@a/v1,http://u:pw@a/v1/", r"twice"),
    ):
        with pytest.raises(OptionError, match=said) as raised:
            split_hosts(bad, "--base_host")
        assert "pw" not in str(raised.value)


@pytest.mark.slow
def test_a_run_over_two_replicas_of_which_one_is_killed(start_server, gate, tmp_path):
    data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(24))
    alone = start_server("--seed", "2")
    assert run_api(*nudging_options(alone.host, data, tmp_path / "alone")).returncode == 0
    steady, doomed = start_server("--seed", "2"), ScriptedServer("--seed", "2").start()
    fronts: list = []

    def both_have_answered(_) -> bool:
        questions = ([body for body in front.answered if "apples" in body.get("prompt", "")] for front in fronts)
        return all(any(body["model"] == "base-lm" for body in asked) for asked in questions)

    fronts += [gate(server, tmp_path / "out", too=both_have_answered) for server in (steady, doomed)]
    hosts = [front.host for front in fronts]
    options = [*nudging_options(",".join(hosts), data, tmp_path / "out"), "--num_threads", 4]
    running = Running(tmp_path / "said", run_api_command(*options))
    try:
        wait_until(lambda: any(front.held for front in fronts), "a gate is closed", running.process)
    finally:
        doomed.stop()
    for front in fronts:
        front.open()
    code, stderr = running.finish(), running.stderr
    assert code == 0, stderr
    fields = ("raw_answer", "all_nudging_words", "all_completions", "stop_reason", "scores")
    wanted, found = (
        [{f: record[f] for f in fields} for record in final_records(tmp_path / name)] for name in ("alone", "out")
    )
    assert found == wanted
    assert stderr.count("its samples go to the other replicas") == 2  # once for each of the two models
    run = json.loads(one(tmp_path / "out", "*.run.json").read_text())
    (session,) = run["sessions"]
    assert [report["host"] for report in session["servers"]["base"]] == hosts
    by_host = session["usage_by_host"]["base"]
    assert sum(usage["requests"] for usage in by_host.values()) == session["usage"]["base"]["requests"]
    assert all(usage["requests"] for usage in by_host.values())


# --- waiting, and what is said of it ---


def limits(farm, times: int, headers: dict, i: int = 0) -> None:
    """Have a server of a farm limit the rate for the next requests."""
    left, reply = [times], farm.reply

    def limited(asked, path):
        if asked != i or path.endswith("/models") or not left[0]:
            return reply(asked, path)
        left[0] -= 1
        farm.asked[asked] += 1
        return 429, headers, {"error": {"message": "slow down"}}

    farm.reply = limited


@pytest.fixture
def no_sleep(monkeypatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", slept.append)
    return slept


PATIENT = {"outage_seconds": 300.0, "rate_limit_seconds": 300.0}


def test_a_rate_limit_that_holds_all_samples_is_told_once(reply_server, no_sleep):
    farm = Farm(reply_server, 1, **PATIENT)
    limits(farm, 2, {"retry-after": "40"})
    assert farm.sample_of(0).complete("Hi", ASK).text == "hello"
    warning, again = farm.warnings
    assert "status 429: slow down; asking again in 40 s, for up to 300 s (--max_outage)" in warning
    assert again.endswith("answers again") and no_sleep == [40, 40]


def test_a_short_one_is_not(reply_server, no_sleep):
    farm = Farm(reply_server, 1, **PATIENT)
    limits(farm, 2, {"retry-after": "2"})
    farm.sample_of(0).complete("Hi", ASK)
    assert farm.warnings == [] and no_sleep == [2, 2]


def test_nor_one_that_holds_one_sample_alone(reply_server, no_sleep):
    farm = Farm(reply_server, 1, **PATIENT)
    limits(farm, 1, {"retry-after": "40"})
    farm.model._asking = 1  # another request is being answered
    farm.sample_of(0).complete("Hi", ASK)
    assert farm.warnings == []


def test_a_rate_limit_of_one_replica_sends_its_sample_to_another(reply_server, no_sleep):
    farm = Farm(reply_server, **PATIENT)
    limits(farm, 1, {"retry-after": "200"})
    assert farm.sample_of(0).complete("Hi", ASK).text == "hello"
    assert farm.asked == [1, 1] and no_sleep == [] and farm.warnings == []


def test_of_two_that_limit_the_rate_the_sooner_is_waited_for(reply_server, no_sleep):
    farm = Farm(reply_server, **PATIENT)
    limits(farm, 1, {"retry-after": "7"}, 0)
    limits(farm, 1, {"retry-after": "200"}, 1)
    assert farm.sample_of(0).complete("Hi", ASK).text == "hello"
    assert no_sleep == [7]


def test_a_rate_limit_beyond_the_patience_ends_in_words(reply_server, no_sleep):
    farm = Farm(reply_server, **PATIENT)
    for i in range(2):
        limits(farm, 9, {"retry-after": str(4000 + i)}, i)
    with pytest.raises(ModelError, match="asks to wait for 4000 s, and --max_outage allows 300 s in all"):
        farm.sample_of(0).complete("Hi", ASK)
    assert no_sleep == []


def test_all_replicas_gone_is_told_in_a_line_of_its_own(reply_server, no_sleep):
    farm = Farm(reply_server, retries=5)
    farm.status = [503, 503]
    with pytest.raises(ModelError):
        farm.sample_of(0).complete("Hi", ASK)
    assert [warning for warning in farm.warnings if "no replica of lm answers; asking all again" in warning]
    assert len(farm.warnings) == 3


def test_a_replica_that_says_nothing_is_left_out(reply_server, monkeypatch):
    monkeypatch.setattr(probe_requests, "SILENCE_SECONDS", 0.2)
    over = threading.Event()

    def silent(path, body):
        over.wait(HANG)
        return 200, {}, None

    fine = reply_server(lambda path, body: (200, {}, MODELS if path.endswith("/models") else completion_reply()))
    policy = RetryPolicy(1, 0.3, 0.3)
    endpoints = [OpenAIEndpoint("lm", s.host, retry_policy=policy) for s in (reply_server(silent), fine)]
    model = Replicas(endpoints, policy, pytest.fail)
    try:
        reports = model.probe(None)
        assert "no answer" in reports[0].warnings[0] and reports[1].warnings == []
        assert model.for_sample(0).complete("Hi", ASK).text == "hello"
    finally:
        over.set()
