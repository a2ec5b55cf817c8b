"""The tokenizer routes of three engines, for `ReplyServer`, over a tokenizer whose tokens are characters."""

REFUSED = (400, {}, {"error": {"message": "no such route", "code": 400}})
SPECIAL = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": None}


class TokenizerRoutes:
    """`form`: vllm, sglang, llama_cpp, or none; `extra_space`: texts come back with a space in front, as SentencePiece's do."""

    def __init__(self, form: str, *, extra_space: bool = False, facts: bool = True, length: int | None = 512):
        self.form, self.extra_space, self.facts, self.length = form, extra_space, facts, length
        self.model = "lm"

    def __call__(self, path: str, body: dict | None):
        found = self.answer(path, body)
        return (200, {}, found) if found is not None else REFUSED

    def answer(self, path: str, body: dict | None) -> dict | None:
        llama = self.form == "llama_cpp"
        if path == "/v1/models":
            known = {"max_model_len": self.length} if self.form in ("vllm", "sglang") and self.length else {}
            return {"object": "list", "data": [{"id": self.model, "object": "model"} | known]}
        if path == "/props" and llama and self.facts:
            told = {"chat_template": "{{ turns }}", "bos_token": "<s>", "eos_token": "</s>"}
            return told | {"default_generation_settings": {"n_ctx": self.length}}
        if path == "/tokenizer_info" and not llama and self.facts:
            return SPECIAL | {"tokenizer_class": "Characters", "chat_template": "{{ turns }}"}
        if path == "/tokenize" and self.form != "none":
            if llama:  # what it does not know it takes for nothing
                text, special = body.get("content", ""), body.get("add_special", False)
            elif "prompt" not in body or body.get("model") != self.model:
                return None
            else:
                text, special = body["prompt"], body["add_special_tokens"]
            tokens = [1] * special + [ord(character) + 10 for character in text]
            return {"tokens": tokens} | ({} if llama else {"count": len(tokens), "max_model_len": self.length})
        if path == "/detokenize" and self.form != "none":
            text = "".join("<s>" if token == 1 else chr(token - 10) for token in body["tokens"])
            if self.form == "sglang" and body.get("skip_special_tokens", True):
                text = text.replace("<s>", "")
            return {
                {"vllm": "prompt", "sglang": "text", "llama_cpp": "content"}[self.form]: " " * self.extra_space + text
            }
        return None
