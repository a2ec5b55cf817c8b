"""Criteria with their numbers, mixtures and questions of one's own in a sweep's config."""

import pytest
from sweeps import write

from cluster.sweep_config import ConfigError, read_sweep
from decoding.criteria import CRITERIA

CRITERIA_LINE = 'criteria = ["top_prob", "entropy", "always"]\n'


def options_of(path) -> list[str]:
    return [" ".join(task.options) for task in read_sweep(path).tasks]


def test_each_criterion_has_its_own_numbers(tmp_path):
    path = write(tmp_path, CRITERIA_LINE + "thresholds = {top_prob = [0.3, 0.4], entropy = 1.5}\n")
    tasks = read_sweep(path).tasks
    assert [task.label for task in tasks] == [
        *("small: gsm8k nudging 0.3", "small: gsm8k nudging 0.4"),
        *("small: gsm8k nudging entropy 1.5", "small: gsm8k nudging always"),
    ]
    assert [(task.settings.criterion, task.settings.used_threshold) for task in tasks] == [
        *(("top_prob", 0.3), ("top_prob", 0.4), ("entropy", 1.5), ("always", None)),
    ]


def test_criteria_without_numbers_have_their_own(tmp_path):
    path = write(tmp_path, 'criteria = ["margin", "random"]\nexperiments = ["base_only", "nudging"]\n')
    tasks = read_sweep(path).tasks
    assert [task.settings.exp for task in tasks] == ["base_only", "nudging", "nudging"]
    assert [task.settings.used_threshold for task in tasks[1:]] == [
        CRITERIA[name].threshold for name in ("margin", "random")
    ]


def test_a_list_is_for_one_criterion(tmp_path):
    path = write(tmp_path, 'criteria = ["entropy", "always"]\nthresholds = [1.0, 2.0]\n')
    assert [task.settings.used_threshold for task in read_sweep(path).tasks] == [1.0, 2.0, None]


def test_mixtures_are_of_nudging_alone(tmp_path):
    path = write(tmp_path, 'experiments = ["base_only", "nudging"]\n[options]\nblend = "auto"\n')
    base, nudging = read_sweep(path).tasks
    assert base.settings.blend is None and nudging.settings.blend == "auto" and nudging.label.endswith("0.3 blend auto")


def test_questions_of_ones_own(tmp_path):
    (tmp_path / "mine.txt").write_text("What is it?\n")
    text = f'questions = "{tmp_path}/mine.txt"\n'
    own = 'data_sets = ["svamp"]\n[options]\nscoring = "rule"\nsplit = "train"\n'
    (alone,) = read_sweep(write(tmp_path, text)).tasks
    assert alone.settings.questions == f"{tmp_path}/mine.txt" and alone.settings.data_dir is None
    data_set, questions = read_sweep(write(tmp_path, text + own)).tasks
    assert data_set.settings.dataset_name == "svamp" and data_set.settings.split == "train"
    assert questions.settings.scoring == "rule" and questions.settings.split is None
    assert [task.label for task in (data_set, questions)] == ["small: svamp nudging 0.3", "small: mine nudging 0.3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('criteria = ["entropie"]\n', "no criterion is called 'entropie'; there are: top_prob"),
        ('criteria = ["top_prob", "entropy"]\nthresholds = [0.3]\n', "numbers of different criteria mean different"),
        ('criteria = ["always"]\nthresholds = [0.3]\n', "thresholds are given, and always has no number"),
        ("thresholds = {entropy = [1.5]}\n", "thresholds of 'entropy', which is not among criteria (top_prob)"),
        ('criteria = "entropy"\nthresholds = [9.0]\n', "--threshold of --criterion entropy is the entropy"),
        ('criteria = "always"\nthresholds = {always = [0.3]}\n', "thresholds of 'always', which has no number"),
        ('thresholds = "high"\n', "must be a list of numbers, or a table of them by criterion"),
        ('[options]\ncriterion = "entropy"\n', "criterion is no further option; the config has a key of its own"),
        ("[options]\ntop_prob_thres = 0.4\n", "top_prob_thres is no further option"),
        ('questions = "none.jsonl"\n', "--questions: there is no file none.jsonl"),
    ],
)
def test_what_cannot_be(tmp_path, text, said):
    with pytest.raises(ConfigError) as refused:
        read_sweep(write(tmp_path, text))
    assert said in str(refused.value) and str(tmp_path) in str(refused.value)
