"""Why pip, uv or venv failed, in one line with what to do, from what they printed; needs Python and nothing else."""

import re

FULL = "the disk is full; free some space (for what is unpacked on the way, TMPDIR can name another folder)"
CONTRADICTION = "the versions that it asks for do not go together on this machine"
UNREACHABLE = "the package index cannot be reached; check the network and, behind a proxy, https_proxy"
RETRY = re.compile(r"(?m)^WARNING: Retrying .*\n?")
NOT_FOUND = re.compile("from versions: none|ResolutionImpossible|No matching distribution")
# What pip and uv say, in the order in which it tells most; {0} is what the expression found.
FAILURES = {
    r"No space left on device|Disk quota exceeded|not enough space|Errno 28\b|Errno 122\b|os error 28\b": (FULL),
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|invalid peer certificate": (
        "the package index's certificate is not trusted here; if a proxy has its own, name its file by PIP_CERT"
    ),
    r"Temporary failure in name resolution|Name or service not known|nodename nor servname|dns error|NameResolutionError"
    r"|Failed to establish a new connection|Network is unreachable|Connection refused|Connection reset|timed out"
    r"|ConnectTimeout|ProxyError|Cannot connect to proxy|RemoteDisconnected|Connection aborted|incomplete-download": (
        UNREACHABLE
    ),
    r"ResolutionImpossible|Cannot install .* conflicting|No solution found": CONTRADICTION,
    r"No matching distribution found for (\S+)": (
        "no version of {0} fits this machine and this Python; another Python can be named by PYTHON=/path/to/python3.11"
    ),
    r"Permission denied|Read-only file system": "the folder cannot be written to; make it writable",
    r"(?m)^(?:ERROR|error): (.+)": "{0}",
}


def reason(said: str) -> str:
    """Why pip, uv or venv failed, and what to do, from what they printed."""
    if not NOT_FOUND.search(said):  # pip warns of tries that did not reach the index, and may reach it in the next one
        said = RETRY.sub("", said)
    for sign, words in FAILURES.items():
        if found := re.search(sign, said):
            return words.format(*(group or "a package" for group in found.groups()))
    last = said.strip().splitlines()[-1:] or ["no reason was given"]
    return last[0].strip().rstrip(".")[:300]
