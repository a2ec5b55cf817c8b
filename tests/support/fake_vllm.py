#!/usr/bin/env python3
"""In the place of a Python that has vLLM: `-m vllm.entrypoints.openai.api_server` starts a server of nothing.

A model's name says what happens: `dies` ends with an error, `hangs` never answers, and `stubborn` ignores TERM and has a
child process that does so too. GET /die ends any of them. With FAKE_WRITES, a Python with the packages, models write: they are
those of the scripted server.
"""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

if sys.argv[1] == "-c":
    print(os.environ.get("FAKE_VLLM_VERSION", "0.32.0"))
    raise SystemExit(3 if "FAKE_NO_VLLM" in os.environ else 0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die":
            os._exit(9)
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


model = sys.argv[sys.argv.index("--model") + 1]
print("command:", *sys.argv[1:])
print("devices:", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if "FAKE_WRITES" in os.environ and model not in ("dies", "hangs"):
    scripted = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripted_lm_server.py")
    port = sys.argv[sys.argv.index("--port") + 1]
    os.execv(os.environ["FAKE_WRITES"], [os.environ["FAKE_WRITES"], scripted, "--port", port, "--request_ms", "20"])
if model == "dies":
    print("\x1b[31mValueError: the model is odd\x1b[0m\nRuntimeError: Engine core initialization failed", flush=True)
    raise SystemExit(7)
if model == "hangs":
    time.sleep(600)
if model == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", ignore])
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
