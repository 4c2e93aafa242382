"""Answers as OpenAI's clients read them, whole and streamed."""
