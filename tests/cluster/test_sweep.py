"""Tests of scripts/sweep.py, its config, and scripts/paper_table.py."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from runs import REPOSITORY, Running, gsm8k_rows, one, write_rows
from sweeps import PAIR, write
from waiting import HANG

from cluster import slurm, sweep
from cluster.sweep_config import ConfigError, as_run, read_sweep, state
from experiment.judgements import published_count


def labels(path: Path, **more) -> list[str]:
    return [task.label for task in read_sweep(path, **more).tasks]


class TestConfig:
    def test_the_runs_of_a_config(self, tmp_path):
        text = 'data_sets = ["gsm8k", "svamp"]\nexperiments = ["base_only", "nudging"]\nthresholds = [0.2, 0.4]\n'
        assert labels(write(tmp_path, text)) == [
            *("small: gsm8k base_only", "small: gsm8k nudging 0.2", "small: gsm8k nudging 0.4"),
            *("small: svamp base_only", "small: svamp nudging 0.2", "small: svamp nudging 0.4"),
        ]

    @pytest.mark.parametrize("option", ["rerun = true", "dry_run = true"])
    def test_what_would_undo_continuing_is_refused(self, tmp_path, option):
        with pytest.raises(ConfigError, match="cannot stand in a sweep"):
            read_sweep(write(tmp_path, f"[options]\n{option}\n"))

    def test_an_option_cut_short_is_none(self, tmp_path):
        with pytest.raises(ConfigError, match="pair small: unrecognized arguments: --reru"):
            read_sweep(write(tmp_path, "[options]\nreru = true\n"))

    def test_an_array_too_large_for_the_cluster_is_refused_before_anything_is_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(slurm, "largest_array", lambda: 1)
        found = read_sweep(write(tmp_path, "thresholds = [0.2, 0.4]\n"))
        with pytest.raises(slurm.SlurmError, match="2 tasks are more than the 1 of an array"):
            slurm.submit(found, found.tasks, [])
        assert not (tmp_path / "out").exists()

    def test_a_run_is_a_command_of_run_api(self, tmp_path):
        text = 'num_samples = 5\n[options]\nnum_threads = 3\nend_tokens = ["a", "b"]\njudge = "none"\n'
        (task,) = read_sweep(write(tmp_path, text)).tasks
        assert " ".join(task.options) == (
            "--dataset_name gsm8k --exp nudging --base_model base-lm --base_host http://localhost:1/v1 "
            "--nudging_model llama-2-chat --nudging_host http://localhost:1/v1 --top_prob_thres 0.3 "
            f"--output_dir {tmp_path}/out --num_samples 5 --data_dir {tmp_path} --num_threads 3 --end_tokens a b --judge none"
        )
        assert task.settings.end_tokens == ("a", "b")

    def test_every_experiment_and_the_pair_s_own_lists(self, tmp_path):
        text = (
            'experiments = ["nudging"]\n'
            + PAIR
            + (
                'aligned_model = "big-chat"\naligned_host = "http://localhost:2/v1"\nproxy_base_model = "p"\n'
                'proxy_base_host = "http://localhost:3/v1"\nnudging_template = "gemma"\n'
                'experiments = ["aligned_only", "ensemble", "proxy_tuning"]\n[pairs.options]\nmax_token_total = 9\n'
            )
        )
        aligned, ensemble, tuning = read_sweep(write(tmp_path, text)).tasks
        assert aligned.settings.nudging_model == "big-chat" and aligned.settings.nudging_host == "http://localhost:2/v1"
        assert ensemble.settings.proxy_chat_model == "llama-2-chat" and ensemble.settings.nudging_template == "gemma"
        assert tuning.settings.proxy_base_model == "p" and tuning.settings.max_token_total == 9

    def test_shards_and_only(self, tmp_path):
        path = write(tmp_path, "shards = 2\n" + PAIR + PAIR.replace("small", "other").replace("base-lm", "lm"))
        assert labels(path, only="other") == [f"other: gsm8k nudging 0.3 shard {i}/2" for i in (1, 2)]
        with pytest.raises(ConfigError, match="no pair is called 'x'; there are: small, other"):
            read_sweep(path, "x")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("data_set = []\n", "unknown key 'data_set'"),
            ('data_sets = ["gsm9k"]\n', "--dataset_name has no choice 'gsm9k'"),
            ('experiments = ["nudge"]\n', "no experiment is called 'nudge'"),
            ('experiments = ["aligned_only"]\n', "pair small has no aligned_model, which aligned_only needs"),
            ("thresholds = [2]\n", "--top_prob_thres is a probability"),
            ('thresholds = ["high"]\n', "thresholds must be a list of numbers"),
            ("shards = 0\n", "shards must be a number, at least 1"),
            ("[options]\nnum_thread = 3\nexp = 4\n", "exp is no further option"),
            ("[options]\nnum_treads = 3\n", "unrecognized arguments: --num_treads 3"),
            ("[slurm]\npartition = 3\n", "unknown key 'partition'"),
            (PAIR + PAIR, None),
            (PAIR + PAIR.replace("base-lm", "x/base-lm"), "have the same result files"),
            ("pairs = 3\n[[pairs", "cannot be read"),
        ],
    )
    def test_mistakes_are_named(self, text, said, tmp_path):
        path = write(tmp_path, text)
        if said is None:
            assert len(read_sweep(path).tasks) == 1
            return
        with pytest.raises(ConfigError) as error:
            read_sweep(path)
        assert said in str(error.value) and str(path) in str(error.value)

    def test_the_configs_here_can_be_read(self):
        assert len(read_sweep(REPOSITORY / "scripts/sweep_example.toml").tasks) == 24
        assert len(read_sweep(REPOSITORY / "scripts/paper_table.toml").tasks) == 11 * 3 * 4


class TestModelsWithoutAHost:
    """In a sweep they are what they are in run_api.py, unless the environment has a host for them."""

    @pytest.fixture
    def folder_model(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model/config.json").write_text("{}")
        return tmp_path / "model"

    def options(self, tmp_path, model: object, monkeypatch, host: str | None = None) -> str:
        if host:
            monkeypatch.setenv("BASE_HOST", host)
        else:
            monkeypatch.delenv("BASE_HOST", raising=False)
        pair = PAIR.replace("base-lm", str(model)).replace('base_host = "{host}"', "")
        (task,) = read_sweep(write(tmp_path, 'experiments = ["base_only"]\n' + pair)).tasks
        assert task.settings.base_host == host
        return " ".join(as_run(task.options))

    def test_they_need_none(self, tmp_path, monkeypatch, folder_model):
        monkeypatch.setenv("HOME", str(tmp_path))
        for model in ("demo-base", "some/where/model.gguf", folder_model, "~/model"):
            assert f"--base_model {model} --output_dir" in self.options(tmp_path, model, monkeypatch)

    def test_one_that_the_environment_has_is_asked(self, tmp_path, monkeypatch):
        host = "http://node7:8000/v1"
        said = self.options(tmp_path, "demo-base", monkeypatch, host)
        assert f"--base_model demo-base --base_host {host} --output_dir" in said

    @pytest.mark.parametrize("model", ["org/on-the-hub", "base-lm"])
    def test_others_wait_for_theirs(self, tmp_path, monkeypatch, model):
        monkeypatch.delenv("BASE_HOST", raising=False)
        pair = PAIR.replace("base-lm", model).replace('base_host = "{host}"', "")
        (task,) = read_sweep(write(tmp_path, 'experiments = ["base_only"]\n' + pair)).tasks
        assert task.needed_variables == ["BASE_HOST"]
        with pytest.raises(ConfigError, match="the environment variable BASE_HOST is not set"):
            as_run(task.options)

    def test_servers_of_an_array_task_are_asked(self, tmp_path, monkeypatch):
        monkeypatch.delenv("BASE_HOST", raising=False)
        pair = PAIR.replace("base-lm", "demo-base") + 'serve = ""\n'
        (task,) = read_sweep(write(tmp_path, 'experiments = ["base_only"]\n' + pair), slurm=True).tasks
        assert "$BASE_HOST" in task.options and task.settings.base_host


class TestDryRun:
    def dry_run(self, capsys, path: Path) -> tuple[int, str, str]:
        return sweep.main([str(path), "--dry_run"]), *capsys.readouterr()

    def test_what_cannot_start_is_said_once_with_how_many(self, tmp_path, capsys):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(3))
        text = 'data_sets = ["gsm8k", "svamp"]\nthresholds = [0.2, 0.4]\nshards = 2\n'
        code, out, err = self.dry_run(capsys, write(tmp_path, text))
        assert code == 1 and out.count("to do ") == 8 and "8 runs, 8 to run" in out
        assert err.count("\n") == 1 and "cannot start: small: svamp nudging 0.2 shard 1/2 and 3 more: no file " in err

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            (("llama-2-chat", "mine"), "tells no instruct template"),
            (('"llama-2-chat"', '"llama-2-chat"\nnudging_template = "tokenizer:none.gguf"'), "no file none.gguf"),
            (('base_host = "{host}"', 'base_host = ""'), "needs --base_host"),
            (("base-lm", "x.gguf"), None),
        ],
    )
    def test_models(self, tmp_path, capsys, changed, said):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(3))
        code, _, err = self.dry_run(capsys, write(tmp_path, PAIR.replace(*changed)))
        assert (code > 0) == bool(said) and (not said or said in err)

    def test_a_model_of_this_process(self, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("BASE_HOST", raising=False)
        write_rows(tmp_path, "gsm8k", gsm8k_rows(3))
        text = PAIR.replace("base-lm", "none.gguf").replace('base_host = "{host}"', "")
        code, _, err = self.dry_run(capsys, write(tmp_path, text))
        assert code == 1 and "there is no file none.gguf" in err

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, capsys):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(3))
        (tmp_path / "out").write_text("")
        code, _, err = self.dry_run(capsys, write(tmp_path, ""))
        assert code == 1 and f"{tmp_path}/out is no folder" in err

    def test_splits_of_the_hub_are_known_without_it(self, tmp_path, capsys):
        path = write(tmp_path, '[options]\nsplit = "validation"\n')
        path.write_text(path.read_text().replace(f'data_dir = "{tmp_path}"\n', ""))
        code, _, err = self.dry_run(capsys, path)
        assert code == 1 and "gsm8k has no split 'validation'; it has: test, train" in err


class TestSlurmFiles:
    """What is written for Slurm; tests/cluster/test_slurm.py runs it on a real one."""

    @pytest.fixture
    def submitted(self, tmp_path, monkeypatch):
        calls = []
        monkeypatch.setattr(slurm, "_sbatch", lambda *arguments: calls.append(arguments) or str(40 + len(calls)))

        def submit(text):
            config = read_sweep(write(tmp_path, text), slurm=True)
            return slurm.submit(config, config.tasks, ["--only", "small"]), calls

        return submit

    def test_scripts(self, submitted):
        text = PAIR + (
            'aligned_model = "org/big"\nexperiments = ["nudging", "aligned_only"]\n[slurm]\nmax_at_once = 2\n'
            'serve = "--base_gpus 0,1"\nsetup = "module load x"\n[slurm.sbatch]\ntime = "1:00"\npartition = "gpu"\n'
        )
        (array, table, folder), calls = submitted(text)
        assert (array, table) == ("41", "42") and calls[1][0] == "--dependency=afterany:41"
        script = (folder / "sweep_array.sbatch").read_text()
        assert script.startswith("#!/usr/bin/env bash\n#SBATCH --array=1-2%2\n")
        assert script.count("#SBATCH --time=") == 1 and "#SBATCH --time=1:00\n#SBATCH --partition=gpu\n" in script
        assert "#SBATCH --requeue" in script and "#SBATCH --signal=B:TERM@60" in script
        assert (folder / "serve.txt").read_text().splitlines() == [
            "base-lm llama-2-chat --base_gpus 0,1",
            "org/big llama-2-chat --base_gpus 0,1",
        ]
        first, second = (slurm.read_task(folder / "tasks.jsonl", i) for i in (1, 2))
        assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}  # hosts may hold passwords
        assert "$BASE_HOST" in first and "$ALIGNED_HOST" in second and "{host}" not in first
        assert "--partition=gpu" in (folder / "table.sbatch").read_text()
        assert folder.stat().st_mode & 0o077 == 0
        for name in ("sweep_array.sbatch", "table.sbatch", "setup.sh"):
            assert subprocess.run(["bash", "-n", folder / name]).returncode == 0
        with pytest.raises(slurm.SlurmError, match="has no task 3"):
            slurm.read_task(folder / "tasks.jsonl", 3)

    def test_directives(self):
        options = {
            "requeue": False,
            "time": "1:00",
            "comment": "two words # three",
            "mail-user": "'a b'",
            "exclusive": True,
        }
        script = slurm._directives(
            "#!/bin/sh\n#SBATCH --requeue\n#SBATCH --time=2\n#SBATCH --timeout=3\ntrue\n", options
        )
        assert script == (
            '#!/bin/sh\n#SBATCH --time=1:00\n#SBATCH --comment="two words # three"\n'
            "#SBATCH --mail-user='a b'\n#SBATCH --exclusive\n#SBATCH --timeout=3\ntrue\n"
        )

    @pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
    def test_folders_that_no_directive_can_name(self, tmp_path, monkeypatch, name):
        found = read_sweep(write(tmp_path, ""))
        monkeypatch.setattr(slurm, "_sbatch", lambda *_: pytest.fail("submitted"))
        with pytest.raises(slurm.SlurmError, match="which sbatch cannot be told"):
            slurm.submit(replace(found, output_dir=tmp_path / name), found.tasks, [])
        assert not (tmp_path / name).exists()

    def test_signs_that_sbatch_replaces_in_names_of_logs(self, tmp_path):
        script = slurm._array_script(read_sweep(write(tmp_path, "")), tmp_path / "50%a", 1)
        assert f'--output="{tmp_path}/50%%a/%a.log"' in script and f"SWEEP_FOLDER={tmp_path}/50%a" in script

    def test_no_slurm_here(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert sweep.main([str(write(tmp_path, "")), "--slurm"]) == 2
        assert "there is no sbatch here" in capsys.readouterr().err


@pytest.mark.slow
class TestRunning:
    def test_a_sweep_goes_on_where_it_was_and_ends_in_a_table(self, run_sweep, server, tmp_path):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(4))
        path = write(tmp_path, 'experiments = ["base_only", "nudging"]\nshards = 2\n', server.host)
        finished = run_sweep(path, "--only", "small")
        assert finished.returncode == 0, finished.stderr
        assert "== [4/4] small: gsm8k nudging 0.3 shard 2/2: to do" in finished.stdout
        table = (tmp_path / "out/results.md").read_text()
        assert table in finished.stdout and table.count("| gsm8k ") == 2
        assert (tmp_path / "out/results.csv").read_text().count(",True,4,") == 2
        log = next((tmp_path / "out").rglob("*nudging*_shard1of2.jsonl"))
        before = server.stats()
        again = run_sweep(path)
        assert again.returncode == 0 and again.stdout.count(": done") == 4 and server.stats() == before
        for whole in (tmp_path / "out").rglob("*llama-2-chat_None_samples.*"):
            whole.unlink()
        log.write_text(log.read_text().splitlines(keepends=True)[0])
        listed = run_sweep(path, "--dry_run")
        assert "unfinished, 1 of 2       small: gsm8k nudging 0.3 shard 1/2" in listed.stdout
        assert "4 runs, 1 to run" in listed.stdout and server.stats() == before
        assert run_sweep(path).returncode == 0
        assert len(json.loads(one(tmp_path / "out", "*llama-2-chat_None_samples.json").read_text())) == 4

    def test_one_failing_run_does_not_stop_the_others(self, run_sweep, server, tmp_path):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(2))
        path = write(tmp_path, 'data_sets = ["svamp", "gsm8k"]\nexperiments = ["base_only"]\n', server.host)
        finished = run_sweep(path)
        assert finished.returncode == 1 and "sweep.sh: failed: small: svamp base_only" in finished.stderr
        assert "Traceback" not in finished.stderr and "| gsm8k " in (tmp_path / "out/results.md").read_text()

    @pytest.mark.parametrize("judge, exit_code", [("auto", 1), ("none", 0)])
    def test_answers_without_scores_are_told_each_time(self, run_sweep, server, tmp_path, judge, exit_code):
        write_rows(tmp_path, "strategyqa", [{"question": f"Is {n} more than 3?", "answer": n > 3} for n in range(2)])
        text = f'data_sets = ["strategyqa"]\nexperiments = ["base_only"]\n[options]\njudge = "{judge}"\n'
        path = write(tmp_path, text, server.host)
        for _ in range(2):
            finished = run_sweep(path)
            assert finished.returncode == exit_code and "failed" not in finished.stderr
            assert ("sweep.sh: small: strategyqa base_only: done, 2 of 2 unscored" in finished.stderr) == (
                exit_code == 1
            )
        assert "| strategyqa " in (tmp_path / "out/results.md").read_text()

    @pytest.mark.parametrize("counting, said", [("published", "done"), ("unscored", "done, 2 of 2 unscored")])
    def test_what_only_counts_as_published_is_done_where_that_is_wanted(
        self, run_sweep, server, tmp_path, counting, said
    ):
        write_rows(tmp_path, "strategyqa", [{"question": f"Is {n} more than 3?", "answer": n > 3} for n in range(2)])
        text = f'''data_sets = ["strategyqa"]\nexperiments = ["base_only"]
[options]\njudge_host = "{server.host}"\nmax_retries = 0\nunreadable_judgements = "{counting}"\n'''
        path = write(tmp_path, text, server.host)
        run_sweep(path)  # the scripted server judges nothing
        file = one(tmp_path / "out", "*_samples.jsonl")
        counted = published_count("judge")
        lines = [json.loads(line) | {"scores": counted} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (task,) = read_sweep(path).tasks
        assert state(task) == (said, counting == "published")

    def test_hosts_from_the_environment(self, run_sweep, server, tmp_path):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(1))
        path = write(tmp_path, 'experiments = ["base_only"]\n', "${SWEEP_TEST_HOST}")
        finished = run_sweep(path)
        assert finished.returncode == 1 and "environment variable SWEEP_TEST_HOST is not set" in finished.stderr
        assert run_sweep(path, env={"SWEEP_TEST_HOST": server.host}).returncode == 0

    def test_sigterm_stops_the_run_and_the_sweep(self, server, gate, tmp_path):
        front = gate(server, tmp_path / "out")
        write_rows(tmp_path, "gsm8k", gsm8k_rows(8))
        path = write(tmp_path, "thresholds = [0.3, 0.4]\n[options]\nnum_threads = 1\n", front.host)
        running = Running(tmp_path / "said", [sys.executable, str(REPOSITORY / "scripts/sweep.py"), str(path)])
        front.wait_until_closed(running.process)
        running.process.send_signal(signal.SIGTERM)
        running.until_it_says("told to stop")
        front.open()
        assert running.finish() == 143 and "sweep.sh: stopped; the same command continues" in running.stderr
        words = [state(task)[0] for task in read_sweep(path).tasks]
        assert words[0].startswith("unfinished, ") and words[0].endswith(" of 8") and words[1] == "to do"

    def test_other_settings_are_not_taken_for_done(self, run_sweep, server, tmp_path):
        write_rows(tmp_path, "gsm8k", gsm8k_rows(1))
        text = 'experiments = ["base_only"]\n'
        assert run_sweep(write(tmp_path, text, server.host)).returncode == 0
        path = write(tmp_path, text + "[options]\nmax_token_total = 9\n", server.host)
        assert "other settings (max_token_total)" in run_sweep(path, "--dry_run").stdout
        finished = run_sweep(path)
        assert finished.returncode == 1 and "--max_token_total was 512, is 9" in finished.stderr


def test_no_config(tmp_path):
    """A config file that is not there is a plain message."""
    command = [sys.executable, str(REPOSITORY / "scripts/sweep.py"), str(tmp_path / "none.toml")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=HANG)
    assert finished.returncode == 2 and finished.stderr.count("\n") == 1 and "cannot be read" in finished.stderr
