"""What clients may send: OpenAI's requests, checked field by field."""
