"""LangChain's OpenAI client, run by the Python that has it: {"url", "question"} comes as JSON on standard input, and replies go to
the file `output`.
"""

import asyncio
import json
import sys
from pathlib import Path

from langchain_openai import ChatOpenAI, OpenAI

LONG = "long " * 20_000


def main() -> None:
    """Ask in every way that LangChain has."""
    work = json.load(sys.stdin)
    told = {"base_url": work["url"], "api_key": "none", "max_retries": 0}
    chat, question = ChatOpenAI(model="pair", temperature=0, max_tokens=40, **told), work["question"]
    whole = chat.invoke([("system", "Be brief."), ("human", question)])
    found = {
        "whole": whole.content,
        "usage": dict(whole.usage_metadata),
        "finish_reason": whole.response_metadata["finish_reason"],
        "stream": [part.content for part in chat.stream([("system", "Be brief."), ("human", question)])],
        "batch": [reply.content for reply in asyncio.run(chat.abatch([question, question]))],
        "streamed usage": [
            dict(part.usage_metadata) for part in chat.stream(question, stream_usage=True) if part.usage_metadata
        ],
        "text": OpenAI(model="pair", temperature=0, max_tokens=40, **told).invoke(question),
    }
    try:
        chat.invoke(LONG)
    except Exception as error:
        found["too long"] = [kind.__name__ for kind in type(error).__mro__]
        found["code"] = error.code
    Path(work["output"]).write_text(json.dumps(found))


main()
