"""JSON that a model was asked for, as models write it."""

import re

UNREADABLE_TRIES = 3
FENCE = re.compile(r"^\s*```(?:json)?|```\s*$")  # judges without a JSON mode like to put it into a code block
