"""One answer of a nudged pair to whatever is asked: conversations, sampling, and where it ends."""
