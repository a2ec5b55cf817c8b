"""Runs on servers whose log-probabilities are no model's: stopped before the first question, or the sample ended by name."""

import pytest
from runs import final_records, nudging_options, run_api
from spoilt_logprobs import FAULTS, double, honest, no_list

from language_models.hosted.logprob_check import REPEATING_PROMPTS
from language_models.hosted.probe import PROBE_PROMPTS


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_would_print_a_wrong_rate_does_not_begin(fault, reply_server, data_dir, tmp_path):
    server = reply_server(double(fault))
    finished = run_api(*nudging_options(server.host, data_dir, tmp_path / "out"), "--max_retries", 1)
    assert finished.returncode == 2 and "intervention rate" not in finished.stdout
    (line,) = finished.stderr.strip().splitlines()
    assert "--base_host" in line and "base-lm" in line and FAULTS[fault] in line


@pytest.mark.parametrize("calls", ["published", "auto"])
def test_a_token_without_a_probability_ends_its_sample_by_name(calls, reply_server, data_dir, tmp_path):
    """A server that the probe does not make draft."""
    fine, drafting = double(honest), double(no_list)
    questions = []

    def reply(path, body):
        if body is None or body["prompt"] in (*PROBE_PROMPTS, *REPEATING_PROMPTS):
            return fine(path, body)
        questions.append(body)
        return (
            drafting(path, body) if "logprobs" not in body else drafting(path, body | {"prompt": REPEATING_PROMPTS[0]})
        )

    options = nudging_options(reply_server(reply).host, data_dir, tmp_path / "out")
    finished = run_api(*options, "--calls", calls, "--num_samples", 2, "--num_threads", 1)
    assert finished.returncode == 1, finished.stderr
    for record in final_records(tmp_path / "out"):
        assert "no log-probability for" in record["error"] and "speculative decoding" in record["error"]
        assert record["usage"]["base"]["retries"] == 0
    assert len(questions) <= 2 * 4


def test_faulty_streams_give_way_to_the_published_calls(reply_server, data_dir, tmp_path):
    server = reply_server(double(no_list, only="streams"))
    options = nudging_options(server.host, data_dir, tmp_path / "out")
    finished = run_api(*options, "--num_samples", 1, "--max_token_total", 20)
    assert finished.returncode == 0, finished.stderr
    assert "warning: the streams of" in finished.stderr and "no log-probability for" in finished.stderr
    refused = run_api(*options, "--num_samples", 1, "--calls", "streamed", "--rerun")
    assert refused.returncode == 2 and "use --calls auto" in refused.stderr


def test_a_model_that_ends_the_probe_at_once_is_streamed(start_server, data_dir, tmp_path):
    server = start_server("--seed", "135", "--omit_eos_token")
    options = nudging_options(server.host, data_dir, tmp_path / "out")
    finished = run_api(*options, "--num_samples", 1, "--calls", "streamed")
    assert finished.returncode == 0, finished.stderr
