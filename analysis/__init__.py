"""Why nudging works: where a base model and an aligned one disagree, and what is nudged."""
