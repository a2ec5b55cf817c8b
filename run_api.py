"""The nudging experiments: options -> settings -> samples over a thread pool -> results -> summary.

    python run_api.py --exp nudging --base_model BASE --base_host http://localhost:8000/v1 \\
        --nudging_model CHAT --nudging_host http://localhost:8001/v1 --num_samples 100

Fei, Razeghi, Singh, "Nudging: Inference-time Alignment of LLMs via Guided Decoding", ACL 2025 (arXiv 2410.09300).
"""

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict

from tqdm import tqdm

from datasets_loader import DATA_SETS, DataError, DataSet, Example, load_examples
from embedded_server import EmbeddedServerError, serve, threads_per_model
from eval_utils import summarise
from experiments import PromptWriter, answer_one, describe, note, prompt_writers, sample_prompts
from judge import is_scored, judge_for, judge_records
from language_models import ModelError
from openai_endpoint import OpenAIEndpoint, ServerReport
from results import ResultFiles, ResultsError, git_commit, now, readable_text, versions
from settings import NEUTRAL_API_KEY, RunSettings, SettingsError, parse_settings
from utils import count_tokens

INTERRUPTED = 130
# Small models' tokenizers cut texts finer than cl100k_base (digits one by one): room for the worst of them.
TOKENS_PER_CL100K_TOKEN = 2


def main(argv: list[str] | None = None) -> int:
    """Run one experiment.

    Returns the exit code: 0, 1 (samples failed or were not scored), 2 (cannot start), 130 (interrupted).
    """
    settings = parse_settings(argv)
    try:
        return run(settings)
    except (SettingsError, DataError, ModelError, EmbeddedServerError, ResultsError) as error:
        print(f"run_api.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        note("interrupted; what is finished is saved, the same command continues")
        return INTERRUPTED


def run(settings: RunSettings) -> int:
    """Run one experiment; returns the exit code.

    Raises:
        SettingsError, DataError, ModelError, EmbeddedServerError, ResultsError: it cannot start, or not go on.
    """
    data_set = DATA_SETS[settings.dataset_name]
    prompts = prompt_writers(settings)
    examples = load_examples(
        settings.dataset_name, split=settings.split, num_samples=settings.num_samples, data_dir=settings.data_dir
    )
    if settings.dry_run:
        print(describe(settings, data_set, examples, prompts))
        return 0
    files = ResultFiles(settings.result_folder, settings.result_name)
    story, records = continue_or_start(settings, files, examples)
    judge, why_no_judge = judge_for(
        data_set,
        judge=settings.judge,
        judge_model=settings.judge_model,
        judge_host=settings.judge_host,
        judge_api_key_env=settings.judge_api_key_env,
        num_threads=settings.num_threads,
        request_timeout=settings.request_timeout,
        max_retries=settings.max_retries,
    )
    if why_no_judge:
        note(
            f"{why_no_judge}; the answers are generated and saved, and scored later by: {scoring_command(settings, files)}"
        )
    todo = [i for i in range(len(examples)) if i not in records]
    started = time.monotonic()
    session = {"start": now(), "versions": versions(), "git_commit": git_commit(), "command": sys.argv, "servers": {}}
    if todo:
        story["sessions"].append(session)
    interrupted, failure, endpoints = False, "", {}
    servers = contextlib.ExitStack()
    try:
        if todo:
            if records:
                note(f"{len(records)} of {len(examples)} answers are there already, {len(todo)} to go")
            endpoints = connect(settings, examples, prompts, servers)
            session["servers"] = {role: asdict(report) for role, (_, report) in endpoints.items()}
            files.write_run(story)
            models = {role: endpoint for role, (endpoint, _) in endpoints.items()}
            interrupted = answer_all(settings, data_set, examples, todo, prompts, models, records, files)
        elif not is_complete(records, data_set, judge):
            note("all answers are there already; scoring")
        ordered = [records[i] for i in sorted(records)]
        if judge is not None and not interrupted:
            failure = judge_records(ordered, data_set, judge, settings.num_threads, files.append)
    finally:
        servers.close()
        session |= {"end": now(), "usage": {role: asdict(e.usage) for role, (e, _) in endpoints.items()}}
        with contextlib.suppress(ResultsError):  # where the disk is full, the error under way says more
            if endpoints:
                files.write_run(story)
    if interrupted:
        files.close_log()
        note(f"interrupted: {len(ordered)} of {len(examples)} answers are saved; the same command continues")
        return INTERRUPTED
    files.write_final(ordered, readable_text(ordered))
    files.write_run(story)
    summary = summarise(ordered, data_set.scoring, time.monotonic() - started)
    files.write_summary(summary.fields)
    print("\n".join([*summary.published_lines(), "", summary.table(), *summary.warnings()]))
    print(f"\nresults: {files.txt} and {files.json}")
    if failed := summary.fields["failed"]:
        error = next(record["error"] for record in ordered if "error" in record)
        note(f"{failed} of {len(ordered)} samples failed and are tried again by the same command; the first: {error}")
    if failure:
        note(f"{summary.fields['unscored']} answers could not be scored ({failure}); the same command tries again")
    elif why_no_judge:
        note(f"not scored yet; to score: {scoring_command(settings, files)}")
    return 1 if failed or failure else 0


def is_complete(records: dict[int, dict], data_set: DataSet, judge) -> bool:
    """Whether every answer has its scores."""
    return data_set.scoring == "rule" or judge is None or all(is_scored(record, judge) for record in records.values())


def answer_all(
    settings: RunSettings,
    data_set: DataSet,
    examples: list[Example],
    todo: list[int],
    writers: dict[str, PromptWriter],
    models: dict[str, OpenAIEndpoint],
    records: dict[int, dict],
    files: ResultFiles,
) -> bool:
    """Answer the samples of `todo` over a thread pool, adding to `records` and the log; returns whether it was interrupted."""
    stop = threading.Event()

    def on_interrupt(*_) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # the log is flushed record by record: nothing finished is lost
        stop.set()
        note("interrupted: no new samples; waiting for those in flight (once more: leave at once)")

    def job(index: int) -> dict | None:
        return None if stop.is_set() else answer_one(settings, data_set, index, examples[index], writers, models)

    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGINT, on_interrupt) if in_main_thread else None
    started, done, correct, failed = time.monotonic(), 0, 0, 0
    pool = ThreadPoolExecutor(settings.num_threads, thread_name_prefix="sample")
    try:
        pending: set[Future] = {pool.submit(job, index) for index in todo}
        # A log file of a batch job gets a line now and then; a terminal is kept up to date.
        live = sys.stderr.isatty()
        label = f"{settings.exp} {settings.dataset_name}"
        with tqdm(total=len(todo), desc=label, unit="answer", mininterval=0.5 if live else 30) as bar:
            while pending:
                # With a time limit, so that a signal is handled while waiting.
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                records_now = [record for future in finished if (record := future.result()) is not None]
                for record in records_now:
                    files.append(record)
                    records[record["index"]] = record
                    failed += "error" in record
                    correct += (record.get("scores") or {}).get("correct", 0)
                done += len(records_now)
                shown = (
                    {"correct": f"{correct}/{done - failed}"} if data_set.scoring == "rule" and done > failed else {}
                )
                if failed:
                    shown["failed"] = failed
                requests = sum(model.usage.requests for model in models.values())
                bar.set_postfix(shown | {"requests/s": f"{requests / (time.monotonic() - started):.1f}"}, refresh=live)
                bar.update(len(records_now))
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        if in_main_thread:
            signal.signal(signal.SIGINT, previous)
    return done < len(todo)


def connect(
    settings: RunSettings, examples: list[Example], writers: dict[str, PromptWriter], servers: contextlib.ExitStack
) -> dict[str, tuple[OpenAIEndpoint, ServerReport]]:
    """The run's models, each probed for what is needed of it; by role.

    Models without a host are served by this process until `servers` is closed.

    Raises:
        ModelError: a server does not answer or cannot do what is needed.
        EmbeddedServerError: a GGUF model cannot be served.
    """
    hosts = embedded_hosts(settings, examples, writers, servers)
    endpoints = {}
    for role, model in settings.models.items():
        endpoint = OpenAIEndpoint(
            model.name,
            model.host or hosts[model.name],
            api_key=os.environ[model.api_key_env] if model.api_key_env else NEUTRAL_API_KEY,
            max_connections=settings.num_threads,
            request_timeout=settings.request_timeout,
            max_retries=settings.max_retries,
            end_names=settings.end_tokens,
        )
        try:
            report = endpoint.probe(model.logprobs)
        except ModelError as error:
            raise ModelError(f"--{role}_host: {error}") from None
        for warning in report.warnings:
            note(f"warning: {warning}")
        endpoints[role] = endpoint, report
    return endpoints


def embedded_hosts(
    settings: RunSettings, examples: list[Example], writers: dict[str, PromptWriter], servers: contextlib.ExitStack
) -> dict[str, str]:
    """The base URLs of the models without a host, by name: each is served once by this process, until `servers` is closed."""
    names = list(dict.fromkeys(model.name for model in settings.models.values() if not model.host))
    if not names:
        return {}
    data_set = DATA_SETS[settings.dataset_name]
    prompts = (prompt for example in examples for prompt in sample_prompts(data_set, example, writers).values())
    longest = max(map(count_tokens, prompts)) + settings.max_token_total
    hosts = {}
    for name in names:
        started = time.monotonic()
        hosts[name] = servers.enter_context(
            serve(
                name,
                num_threads=settings.num_threads,
                context_length=TOKENS_PER_CL100K_TOKEN * longest + settings.completion_token_num,
                model_threads=threads_per_model(len(names)),
            )
        )
        note(f"serving {name} at {hosts[name]} (ready in {time.monotonic() - started:.1f} s)")
    return hosts


def continue_or_start(
    settings: RunSettings, files: ResultFiles, examples: list[Example]
) -> tuple[dict, dict[int, dict]]:
    """The run's story and the finished records of earlier runs by index, with the log open for more.

    Raises:
        ResultsError: the files are another run's, or cannot be read or written.
    """
    if settings.rerun:
        for path in files.set_aside():
            note(f"moved aside: {path}")
    records = {record["index"]: record for record in files.records() if "error" not in record}
    story = files.read_run()
    settings_now = settings.decisive
    settings_then = story.get("settings", settings_now if records else {})
    # Compared as JSON has them: a tuple comes back as a list.
    differing = (
        [name for name, value in settings_now.items() if _as_json(value) != settings_then.get(name)] if story else []
    )
    if records and differing:
        changes = ", ".join(
            f"--{name} was {settings_then.get(name)!r}, is {settings_now[name]!r}" for name in differing
        )
        raise ResultsError(
            f"{files.jsonl} was started with other settings: {changes}. "
            "Use the same ones, another --exp_prefix or --output_dir, or start afresh with --rerun"
        )
    for index, record in records.items():
        if index >= len(examples) or record["question"] != examples[index].question:
            raise ResultsError(
                f"{files.jsonl}: its sample {index} asks another question than the data set does now; "
                "use the same data, another --output_dir, or start afresh with --rerun"
            )
    files.open_log()
    return {"settings": settings_now, "all_settings": asdict(settings), "sessions": story.get("sessions", [])}, records


def _as_json(value):
    return list(value) if isinstance(value, tuple) else value


def scoring_command(settings: RunSettings, files: ResultFiles) -> str:
    """The command that scores the results later."""
    words = ["python", "eval_utils.py", str(files.json), "--dataset_name", settings.dataset_name]
    for option in ("judge_model", "judge_host"):
        if value := getattr(settings, option):
            words += [f"--{option}", value]
    if settings.judge_api_key_env != RunSettings.judge_api_key_env:
        words += ["--judge_api_key_env", settings.judge_api_key_env]
    return shlex.join(words)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # all files are written: no waiting for threads whose answers nobody will read
