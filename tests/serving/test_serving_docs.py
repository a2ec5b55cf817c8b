"""docs/serving.md names what there is: refused fields, codes of errors, metrics, routes and options."""

import re

import pytest
from runs import REPOSITORY

from serving.errors import api_error
from serving.refused import REFUSED
from serving.requests import ChatBody, TextBody
from serving.settings import build_parser

TEXT = (REPOSITORY / "docs/serving.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`\n]+)`", TEXT))))


def test_every_refused_field_is_named():
    assert set(REFUSED) <= NAMED


def test_every_field_is_named():
    assert (set(ChatBody.model_fields) | set(TextBody.model_fields)) - {"user"} <= NAMED


def test_every_code_of_an_error_is_named():
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "serving").glob("*.py")]
    codes = {code for text in sources for code in re.findall(r'code="(\w+)"', text)}
    assert len(codes) > 15 and api_error(ValueError(), "prompt").code in codes
    assert codes <= NAMED


def test_every_metric_is_named(served):
    metrics = re.findall(r"(?m)^# TYPE (\w+) (?!gauge)|^# TYPE (nudged_writing) ", served.http.get("/metrics").text)
    names = {one or other for one, other in metrics}
    assert len(names) > 8 and names <= NAMED


def test_every_route_is_named(served):
    paths = {route.path.replace("{name:path}", "NAME") for route in served.app.routes}
    assert {path for path in paths if path not in TEXT} == set()


@pytest.mark.parametrize("group", ["server"])
def test_every_option_of_the_server_is_named(group):
    (found,) = (one for one in build_parser()._action_groups if one.title == group)
    options = {action.option_strings[-1] for action in found._group_actions}
    assert len(options) > 8 and {option for option in options if option not in TEXT} == set()
