"""What a record was asked, as a text for people and judges."""


def asked_text(record: dict) -> str:
    """A record's context and question; of a conversation all its turns, each behind its role."""
    asked = f"{record.get('context') or ''}{record.get('q_prefix') or ''}{record['question']}"
    if not (history := record.get("history")):
        return asked
    return "\n".join(f"[{turn['role']}] {turn['content']}" for turn in [*history, {"role": "user", "content": asked}])
