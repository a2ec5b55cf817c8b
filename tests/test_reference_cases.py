"""The recorded outputs of the published program, through the real command line against the running scripted server."""

import json

import pytest
from runs import CASES, final_records, one, run_api, write_rows
from scripted_lm_server import EOS, ScriptedLM

from language_models.hosted.probe import PROBE_PROMPT

pytestmark = pytest.mark.slow  # runs the command line, many times

END_FORMS = {
    "printed_empty": ("--eos_token_text", ""),
    "printed_by_name": ("--eos_token_text", "</s>"),
    "omitted": ("--omit_eos_token",),
}
CASE_OPTIONS = (
    "exp",
    "base_model",
    "nudging_model",
    "proxy_chat_model",
    "proxy_base_model",
    "baseline_method",
    "top_prob_thres",
    "completion_token_num",
    "completion_token_num_nudging",
    "max_token_total",
)
RECORDED = ("raw_answer", "all_nudging_words", "all_completions", "stop_reason")


@pytest.fixture(scope="module")
def case_servers(start_server):
    """Scripted servers by seed and form of the end of sequence."""
    servers = {}

    def get(seed: int, form: str):
        if (seed, form) not in servers:
            servers[seed, form] = start_server("--seed", str(seed), *END_FORMS[form])
        return servers[seed, form]

    return get


def models_of(case: dict) -> dict[str, str]:
    """The models that a case's experiment uses, by role."""
    roles = {"base_only": ["base"], "nudging_only": ["nudging"], "nudging": ["base", "nudging"]}.get(case["exp"])
    if roles is None:
        roles = ["base", "proxy_chat"] + ["proxy_base"] * (case["baseline_method"] == "proxy_tuning")
    return {role: case[f"{role}_model"] for role in roles}


# Where the end is left out of the log-probabilities, the baselines cannot know how probable it is.
CASES_AND_FORMS = [
    (name, form) for name, case in CASES.items() for form in END_FORMS if case["exp"] != "baseline" or form != "omitted"
]


@pytest.mark.parametrize("calls", ["published", "streamed"])
@pytest.mark.parametrize(("name", "form"), CASES_AND_FORMS)
def test_same_text_as_the_published_program(name, form, calls, case_servers, tmp_path):
    case = CASES[name]
    server = case_servers(case["seed"], form)
    # They take long: of another form of the end every fourth answer shows as much.
    recorded = case["records"][:: 1 if form == "printed_empty" else 4]
    rows = [{"question": record["question"], "answer": "#### 0"} for record in recorded]
    options = [
        part for option in CASE_OPTIONS if case.get(option) is not None for part in (f"--{option}", case[option])
    ]
    options += [
        part for role in ("base", "nudging", "proxy_chat", "proxy_base") for part in (f"--{role}_host", server.host)
    ]
    before = server.stats()
    # The fast way is what a user gets who does not ask for another.
    options += ["--calls", "published"] if calls == "published" else []
    finished = run_api(*options, "--data_dir", write_rows(tmp_path, "gsm8k", rows), "--output_dir", tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    records = final_records(tmp_path / "out")
    for record, wanted in zip(records, recorded, strict=True):
        for key in RECORDED:
            if key in wanted:
                assert record[key] == wanted[key], f"sample {record['index']}: {key}"
    if form != "printed_empty":
        return
    if calls == "streamed":
        used = json.loads(one(tmp_path / "out", "*.run.json").read_text())["sessions"][0]["calls"]
        assert used == ("streamed" if case["exp"] in ("nudging", "baseline") else "published")  # one request per answer
    else:
        for model, published in case["published_program"].items():
            after, earlier = server.stats()[model], before.get(model, {})
            # The probe's requests come on top: three, eight more where log-probabilities are needed and one more where not, one for
            # a BOS, and one for each prompt that the model ends at once.
            probing = 0
            for role, name in models_of(case).items():
                needs_logprobs = case["exp"] == "baseline" or (case["exp"], role) == ("nudging", "base")
                silent = ScriptedLM(case["seed"], name).ranked(PROBE_PROMPT, 1)[0][0] == EOS
                probing += (name == model) * (3 + (8 if needs_logprobs else 1) + ("gemma" in name) + silent)
            assert after["requests"] - earlier.get("requests", 0) == published["requests"] + probing
