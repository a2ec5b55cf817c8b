"""Attacks by the environment (proxies, certificates, variables of other programs) and by addresses."""

from pathlib import Path

from attack import Attack, Outcome, run_command
from doubles import ReplyServer, completion_reply
from runs import gsm8k_rows, write_rows

PART = "network"
FAR = "http://203.0.113.9/v1"  # no machine has this address


def reply(path: str, body: dict | None):
    return 200, {}, {"data": [{"id": "m"}]} if body is None else completion_reply(text="4", tokens=("4",))


def base_only(folder: Path, host: str, *more: object, **env: str) -> Outcome:
    data = write_rows(folder / "data", "gsm8k", gsm8k_rows(1))
    options = ["--exp", "base_only", "--base_model", "m", "--base_host", host, "--data_dir", data, "--max_retries", 0]
    return run_command("run_api.py", *options, "--output_dir", folder / "out", *more, env=env)


def served(*more: object, answer=reply, path: str = "/v1", scheme: str = "http", **env: str):
    """A run against a server of this machine."""

    def run(folder: Path) -> Outcome:
        server = ReplyServer(answer)
        try:
            return base_only(folder, server.host.replace("http", scheme).replace("/v1", path), *more, **env)
        finally:
            server.stop()

    return run


def far(**env: str):
    return lambda folder: base_only(folder, FAR, "--max_outage", 0, **env)


def url(host: str):
    return lambda folder: base_only(folder, host)


def judged(**env: str):
    """The judge of answers that are there already."""

    def run(folder: Path) -> Outcome:
        (folder / "r.json").write_text('[{"question": "q", "raw_answer": "a", "gold_answer": "b"}]')
        return run_command("eval_utils.py", folder / "r.json", "--dataset_name", "date", env=env)

    return run


def moved(status: int):
    def answer(path: str, body: dict | None):
        if path.startswith("/old"):
            return status, {"Location": path.removeprefix("/old")}, {}
        return reply(path, body)

    return answer


def fetch(**env: str):
    def run(folder: Path) -> Outcome:
        return run_command("scripts/get_demo_models.py", "--cache_dir", folder, env=env)

    return run


NOWHERE = "http://127.0.0.1:9"
SERVE = ("scripts/serve_models.py", "m", "n", "--dry_run")

ATTACKS = [
    Attack(
        PART, "proxies for a server of this machine", served(HTTP_PROXY=NOWHERE, ALL_PROXY=NOWHERE, http_proxy=NOWHERE)
    ),
    Attack(PART, "a socks proxy for a server of this machine", served(ALL_PROXY="socks5://127.0.0.1:9")),
    Attack(
        PART,
        "a proxy that is away",
        far(HTTP_PROXY="http://bob:hunter2@127.0.0.1:9"),
        2,
        r"through the proxy http://\*\*\*@127.0.0.1:9 \(HTTP_PROXY\)",
    ),
    Attack(
        PART, "a socks proxy without its package", far(ALL_PROXY="socks5://127.0.0.1:9"), 2, "needs the package socksio"
    ),
    Attack(
        PART, "a proxy of an unknown kind", far(HTTP_PROXY="gopher://127.0.0.1:9"), 2, "'gopher' are not known here"
    ),
    Attack(PART, "a proxy that is no URL", far(http_proxy="http://p:port"), 2, "is no URL of a proxy"),
    Attack(PART, "no SSL_CERT_FILE", served(SSL_CERT_FILE="/gone.pem"), 2, "SSL_CERT_FILE names no file"),
    Attack(PART, "no SSL_CERT_DIR", served(SSL_CERT_DIR="/gone"), 2, "SSL_CERT_DIR names no folder"),
    Attack(PART, "no SSLKEYLOGFILE", served(SSLKEYLOGFILE="/gone/keys"), 2, "SSLKEYLOGFILE cannot be written"),
    Attack(
        PART,
        "a judge behind a socks proxy",
        judged(OPENAI_API_KEY="sk-live-123", HTTPS_PROXY="socks5://p:1"),
        2,
        "needs the package socksio",
    ),
    Attack(
        PART,
        "OPENAI_BASE_URL leads elsewhere",
        judged(OPENAI_API_KEY="sk-live-123", OPENAI_BASE_URL=FAR),
        1,
        "names another address than OpenAI's",
    ),
    Attack(
        PART, "models fetched without SSL_CERT_FILE", fetch(SSL_CERT_FILE="/gone.pem"), 2, "SSL_CERT_FILE names no file"
    ),
    Attack(
        PART, "models fetched by an unknown proxy", fetch(HTTPS_PROXY="gopher://p"), 2, "'gopher' are not known here"
    ),
    Attack(
        PART,
        "models served without SSLKEYLOGFILE",
        lambda folder: run_command(*SERVE, env={"SSLKEYLOGFILE": "/gone/keys"}),
        2,
        "SSLKEYLOGFILE cannot be written",
    ),
    *(
        Attack(PART, f"{status} to another path", served(answer=moved(status), path="/old/v1"), code, says)
        for status, code, says in (
            (301, 2, "status 301.*is the host http://127"),
            (302, 2, "302"),
            (303, 2, "303"),
            (307, 0, None),
        )
    ),
    Attack(PART, "HTTP:// in capitals", served(scheme="HTTP")),
    Attack(PART, "no scheme", url("localhost:8000/v1"), 2, "with http:// or https:// before"),
    Attack(PART, "a host with /chat/completions", url("http://h/v1/chat/completions"), 2, "give http://h/v1"),
    Attack(PART, "a host with a query", url("http://h/v1?key=hunter2"), 2, r"without a query"),
    Attack(PART, "a host with a fragment", url("http://h/v1#x"), 2, r"without a fragment"),
    Attack(PART, "a port of letters", url("http://h:port/v1"), 2, "host and port cannot be read"),
]
