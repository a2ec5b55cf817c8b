"""GGUF models that run_api.py serves itself: names and messages, and the real demo models in every experiment."""

import json
import re
import signal
import subprocess
import sys
import time
from types import ModuleType

import pytest
from doubles import answers
from runs import REPOSITORY, final_records, gsm8k_rows, one, run_api, run_api_command, write_rows
from waiting import finish, records_in, wait_until

from demo.catalogue import DEMO_MODELS
from language_models.hosted.endpoint import OpenAIEndpoint
from language_models.hosted.llama_cpp import EmbeddedServerError, gguf_path, is_gguf, serve, threads_per_model
from language_models.interface import ProbabilityError, SamplingParams

SHORT = ("--max_token_total", 12, "--num_threads", 2)
BASE, CHAT = ("--base_model", "demo-base"), ("--nudging_model", "demo-aligned")
PROXIES = ("--proxy_chat_model", "demo-aligned", "--proxy_base_model", "demo-base")


@pytest.mark.parametrize("name", ["demo-base", "demo-aligned", "folder/model.Q4_K_M.gguf", "MODEL.GGUF"])
def test_names_of_gguf_models(name):
    assert is_gguf(name)


@pytest.mark.parametrize("name", ["gemma-2-27b", "stories15m", "some/gguf"])
def test_names_of_others(name):
    assert not is_gguf(name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(EmbeddedServerError, match="there is no file"):
        gguf_path(str(tmp_path / "nothing.gguf"))


def test_a_demo_model_that_is_not_fetched_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r"scripts/get_demo_models\.py.* demo-base"):
        gguf_path("demo-base")


def test_without_the_package_the_install_line_is_named(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EmbeddedServerError, match="pip install -r requirements-local.txt"):
        with serve(str(tmp_path / "model.gguf"), num_threads=1, context_length=64, model_threads=1):
            pass


def test_a_process_that_ends_while_it_loads_is_no_server(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "xllamacpp", ModuleType("xllamacpp"))
    monkeypatch.setattr(sys, "executable", "false")  # as where memory is short: it ends without a word
    with pytest.raises(
        EmbeddedServerError, match="llama.cpp ended with exit code 1 while it was loading.*is there memory"
    ):
        with serve(str(tmp_path / "model.gguf"), num_threads=1, context_length=64, model_threads=1):
            pass


def test_every_model_has_a_thread():
    assert threads_per_model(1) >= threads_per_model(2) >= threads_per_model(1000) == 1


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data"), "gsm8k", gsm8k_rows(2))


@pytest.fixture(scope="module")
def demo_models():
    """The real models of the demo, fetched once into the user's cache."""
    subprocess.run([sys.executable, "scripts/get_demo_models.py", "demo-base", "demo-aligned"], check=True)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("demo_models")
class TestRealModels:
    @pytest.mark.parametrize(
        "options",
        [
            ("--exp", "base_only", *BASE),
            ("--exp", "nudging_only", *CHAT),
            ("--exp", "nudging", *BASE, *CHAT, "--top_prob_thres", "0.4"),
            ("--exp", "baseline", *BASE, *PROXIES[:2], "--num_samples", 1),
            ("--exp", "baseline", "--baseline_method", "proxy_tuning", *BASE, *PROXIES, "--num_samples", 1),
        ],
        ids=["base_only", "nudging_only", "nudging", "ensemble", "proxy_tuning"],
    )
    def test_all_experiments(self, options, data_dir, tmp_path):
        finished = run_api(*options, *SHORT, "--data_dir", data_dir, "--output_dir", tmp_path)
        assert finished.returncode == 0, finished.stderr
        for record in final_records(tmp_path):
            assert record["raw_answer"].strip() and "<" not in record["raw_answer"], record["raw_answer"]
            assert record["usage"] and all(use["requests"] for use in record["usage"].values())
        if "nudging" in options:
            assert all(record["all_nudging_words"] for record in final_records(tmp_path))
            # the aligned model gets the template in its file
            assert final_records(tmp_path)[0]["full_prefix_nudging"].startswith("<|im_start|>system")
            (session,) = json.loads(one(tmp_path, "*.run.json").read_text())["sessions"]
            assert session["templates"] == {"base": "plain (by name)", "nudging": "the model's own"}
            packages = {"python", "openai", "httpx2", "xllamacpp", "tiktoken", "jinja2"}
            assert session["versions"].keys() == packages
            told = session["servers"]["nudging"]
            assert told["engine"] == f"xllamacpp {session['versions']['xllamacpp']}" and "CPU" in told["device"]
            assert (told["number_format"], told["speculation"]) == ("Q4_1", "none")

    def test_one_model_embedded_and_one_behind_a_server(self, server, data_dir, tmp_path):
        options = ["--exp", "nudging", *BASE, "--nudging_model", "llama-2-chat", "--nudging_host", server.host]
        finished = run_api(*options, *SHORT, "--data_dir", data_dir, "--output_dir", tmp_path)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr.count("serving ") == 1

    @pytest.mark.parametrize("drafts", ["NGRAM_SIMPLE", "NGRAM_CACHE", "DRAFT_SIMPLE"])
    def test_a_server_that_drafts_is_no_base_model(self, drafts):
        """llama-server --spec-type: the repeating prompts make it draft, whatever it drafts by."""
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = params.speculative.draft.mparams.path = str(gguf_path("demo-aligned"))
        params.speculative.types = [getattr(xllamacpp.common_speculative_type, f"COMMON_SPECULATIVE_TYPE_{drafts}")]
        params.hostnames, params.port, params.n_parallel, params.n_ctx = ["127.0.0.1"], 0, 1, 512
        params.fit_params, params.cpuparams.n_threads, params.verbosity = False, 1, -1
        server = xllamacpp.Server(params)
        model = OpenAIEndpoint("demo-aligned", f"{server.listening_address}/v1")
        with pytest.raises(ProbabilityError, match="no log-probability for .*--spec-type"):
            model.probe(1)
        assert model.probe(None).streams  # as a nudging model it is as good as any
        del server

    def test_no_answer_in_flight_is_waited_for(self):
        """With the server's own end it would be, by a call that lets nothing else run."""
        with serve("demo-aligned", num_threads=1, context_length=4096, model_threads=1) as host:
            stream = OpenAIEndpoint("demo-aligned", host).stream("Once upon a time", SamplingParams(4000))
            assert next(stream).text
            left = time.monotonic()
        assert time.monotonic() - left < 5 and not answers(f"{host}/models")

    def test_the_server_ends_with_a_run_that_is_killed(self):
        serving = "serve('demo-aligned', num_threads=1, context_length=64, model_threads=1)"
        code = f"from language_models.hosted.llama_cpp import serve\nwith {serving} as host: print(host, flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        ) as running:
            host = running.stdout.readline().strip()
            assert answers(f"{host}/models")
            running.kill()
        wait_until(lambda: not answers(f"{host}/models"), "the server's end")

    def test_an_interrupt_stops_the_servers(self, tmp_path):
        data = write_rows(tmp_path / "data", "gsm8k", gsm8k_rows(400))
        options = ("--exp", "base_only", *BASE, *SHORT, "--data_dir", data, "--output_dir", tmp_path / "out")
        command = run_api_command(*options)
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        host = None
        while host is None and (line := running.stderr.readline()):
            host = re.search(r"serving demo-base at (\S+)", line)
        wait_until(lambda: records_in(tmp_path / "out"), "an answer", running)
        running.send_signal(signal.SIGINT)
        _, stderr = finish(running)
        assert running.returncode == 130, stderr
        assert not answers(f"{host[1]}/models")

    def test_an_error_in_the_run_stops_the_servers(self, data_dir, tmp_path):
        host = "http://127.0.0.1:9/v1"
        options = ["--exp", "nudging", *BASE, "--nudging_model", "llama-2-chat", "--nudging_host", host]
        finished = run_api(*options, *SHORT, "--max_retries", 0, "--data_dir", data_dir, "--output_dir", tmp_path)
        assert finished.returncode == 2 and "no server answers there" in finished.stderr
        assert "Traceback" not in finished.stderr

    def test_a_file_that_is_no_gguf(self, data_dir, tmp_path):
        (tmp_path / "broken.gguf").write_bytes(b"no weights")
        options = ["--exp", "base_only", "--base_model", tmp_path / "broken.gguf"]
        finished = run_api(*options, *SHORT, "--data_dir", data_dir, "--output_dir", tmp_path / "out")
        assert finished.returncode == 2 and "is it a GGUF file" in finished.stderr, finished.stderr

    def test_a_cut_download_is_no_model(self, data_dir, tmp_path, monkeypatch):
        monkeypatch.setenv("NUDGING_CACHE", str(tmp_path))
        (tmp_path / DEMO_MODELS["demo-base"].file).write_bytes(b"GGUF")
        finished = run_api(
            "--exp", "base_only", *BASE, *SHORT, "--data_dir", data_dir, "--output_dir", tmp_path / "out"
        )
        assert finished.returncode == 2 and "get_demo_models.py" in finished.stderr
