"""The nudged pair behind an OpenAI-compatible server, and its chat page."""
