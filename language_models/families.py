"""What is known of model families by their names."""

# Families that write nonsense without the beginning-of-sequence token, and what it is called.
NEEDS_BOS = {"gemma": "<bos>"}
