"""An OpenAI-compatible server: ``racer serve``. Its libraries come with the extra ``serve``."""
