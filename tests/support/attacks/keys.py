"""Attacks on keys and passwords: none of them may stand in what a command says or writes, wherever somebody repeats it."""

from pathlib import Path
from urllib.parse import quote

from attack import Attack, Outcome, run_command
from doubles import ReplyServer, completion_reply

from attacks.environment import NOWHERE, base_only

PART = "secrets"
KEY = "sk-live-4f8a/9b2c+d1e0"


def written(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def without(outcome: Outcome, folder: Path, *secrets: str) -> Outcome:
    """The outcome; its exit code is none where a secret stands in anything that was said or written."""
    for secret in secrets:
        if secret in outcome.stdout + outcome.stderr + written(folder / "out"):
            return Outcome(99, outcome.seconds, outcome.stdout, f"{outcome.stderr}\n{secret} is shown")
    return outcome


def echo(
    answer, *more: object, host=lambda url: url, key: str = KEY, secrets: tuple[str, ...] = (), named: bool = True
):
    """A run whose server repeats what it was sent."""

    def run(folder: Path) -> Outcome:
        server = ReplyServer(answer)
        options = ["--base_api_key_env", "MY_KEY"] if named else []
        try:
            outcome = base_only(folder, host(server.host), *options, *more, MY_KEY=key)
        finally:
            server.stop()
        return without(outcome, folder, *(secrets or (key,)))

    return run


def refusing(status: int, content, headers: dict | None = None):
    return lambda path, body: (status, headers or {}, content)


def telling(path: str, body: dict | None):
    """A server that answers, and tells the key wherever it tells anything of itself."""
    if path.endswith("/models"):
        return 200, {}, {"data": [{"id": "m", "owned_by": KEY}, {"id": f"other {KEY}"}]}
    if body is None:
        return 200, {}, {"version": KEY, "build_info": KEY}
    return 200, {"Server": KEY}, completion_reply(text="4", tokens=("4",))


def option(*options: object, **env: str):
    return lambda folder: without(
        run_command("run_api.py", *options, "--output_dir", folder / "out", env=env), folder, KEY, "sk-live"
    )


def sweep(line: str):
    def run(folder: Path) -> Outcome:
        config = folder / "c.toml"
        config.write_text(
            f'output_dir = "{folder}/out"\n[[pairs]]\nbase_model = "m"\nbase_host = "{NOWHERE}"\n{line}\n'
        )
        return without(run_command("scripts/sweep.py", config, "--dry_run"), folder, KEY, "sk-live")

    return run


def judge(*options: str):
    def run(folder: Path) -> Outcome:
        (folder / "r.json").write_text('[{"question": "q", "raw_answer": "a", "gold_answer": "b"}]')
        outcome = run_command("eval_utils.py", folder / "r.json", "--dataset_name", "date", *options)
        return without(outcome, folder, KEY, "sk-live", "hunter2")

    return run


ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)
WHERE_A_NAME_BELONGS = "not the key itself"
BOB = "http://bob:hun%22ter2@"

ATTACKS = [
    Attack(PART, "a 401 repeats the key", echo(refusing(401, {"error": {"message": f"bad {KEY}"}})), 2, r"bad \*\*\*"),
    Attack(
        PART,
        "percent-encoded",
        echo(refusing(400, f"bad {quote(KEY, safe='')}".encode()), secrets=("4f8a",)),
        2,
        r"\*\*\*",
    ),
    Attack(
        PART, "as JSON escapes", echo(refusing(400, f"<p>{ESCAPED}</p>".encode()), secrets=(ESCAPED,)), 2, r"\*\*\*"
    ),
    Attack(
        PART,
        "cut off by a limit",
        echo(refusing(400, f"{'x' * 279} {KEY}".encode()), secrets=("sk-live",)),
        2,
        r"\*\*\*",
    ),
    Attack(
        PART, "in a redirect", echo(refusing(301, {}, {"Location": f"https://h/{KEY}/v1?k={KEY}"})), 2, "status 301"
    ),
    Attack(PART, "in what a server tells of itself", echo(telling)),
    Attack(
        PART,
        "the password of a URL",
        echo(
            refusing(403, {"detail": 'hun"ter2 is wrong'}),
            host=lambda url: url.replace("http://", BOB),
            named=False,
            secrets=("ter2",),
        ),
        2,
        r"http://\*\*\*@.*\*\*\* is wrong",
    ),
    Attack(
        PART,
        "password and key",
        echo(telling, host=lambda url: url.replace("http://", BOB), secrets=(KEY, "ter2")),
        2,
        "a request carries one of the two",
    ),
    Attack(
        PART,
        "a password with @ and quotes",
        option("--base_host", "http://b:sk-live@'\"x@h:port/v1", "--base_model", "m", "--exp", "base_only"),
        2,
        r"http://\*\*\*@h",
    ),
    Attack(
        PART,
        "a password without a scheme",
        option("--base_host", "bob:sk-live@h:80", "--base_model", "m", "--exp", "base_only"),
        2,
        r"\*\*\*@h:80",
    ),
    Attack(
        PART,
        "a key in the query",
        option("--base_host", f"http://h/v1?key={KEY}", "--base_model", "m", "--exp", "base_only"),
        2,
        "without a query",
    ),
    Attack(
        PART,
        "a key for a variable",
        option("--base_api_key_env", KEY, "--base_model", "m", "--base_host", NOWHERE, "--exp", "base_only"),
        2,
        WHERE_A_NAME_BELONGS,
    ),
    Attack(PART, "a key for the judge's variable", option("--judge_api_key_env", KEY), 2, WHERE_A_NAME_BELONGS),
    Attack(
        PART,
        "a key for an unknown option",
        option("--openai_api_key", KEY),
        2,
        r"unrecognized arguments: --openai_api_key \*\*\*",
    ),
    Attack(PART, "a key for the judge of eval_utils.py", judge("--judge_api_key_env", KEY), 2, WHERE_A_NAME_BELONGS),
    Attack(
        PART,
        "a judge's password",
        judge("--judge_host", "http://b:hunter2@127.0.0.1:9/v1", "--max_retries", "0"),
        1,
        r"\*\*\*@127",
    ),
    Attack(
        PART,
        "a key in a sweep",
        sweep(f'base_api_key_env = "{KEY}"\nexperiments = ["base_only"]'),
        2,
        WHERE_A_NAME_BELONGS,
    ),
    Attack(
        PART,
        "a key in a sweep's options",
        sweep(f'options = {{ api_key = "{KEY}" }}\nexperiments = "base_only"'),
        2,
        r"\*\*\*",
    ),
    Attack(PART, "a list of keys in a sweep", sweep(f'base_api_key_env = ["{KEY}"]'), 2, r"\*\*\*"),
    Attack(
        PART,
        "a key among vLLM's options",
        lambda folder: without(
            run_command("scripts/serve_models.py", "m", "n", "--dry_run", "--", "--api-key", KEY), folder, KEY
        ),
    ),
]
