"""Which models a server lists."""

import openai

from command.secrets import NEUTRAL_API_KEY, without_password
from language_models.hosted.http import make_client, make_http, place, plain_errors
from language_models.interface import ModelError


def only_model_at(host: str, api_key: str = NEUTRAL_API_KEY) -> str:
    """The name of the one model that a server lists.

    Args:
        host: its base URL.

    Raises:
        ModelError: it does not answer, or lists none or several.
    """
    with make_http(host, 1, 30.0) as http:
        client: openai.OpenAI = make_client(host, api_key, http)
        with plain_errors(place("the models", host), client):
            names = [model.id for model in client.models.list()]
    if len(names) != 1:
        found = f"lists {', '.join(names[:5])}" if names else "lists no model"
        raise ModelError(f"{without_password(host)} {found}: name the model, and its host apart from it")
    return names[0]
