"""How bodies are sent, and what a refusal points at."""

JSON = {"Content-Type": "application/json"}


def pointers(answer) -> list[str]:
    return sorted(fault["pointer"] for fault in answer.json["errors"])
