"""The questions of a benchmark: built in, in files, or in a data set of the Hugging Face hub."""

from racer.bench.questions.files import BUILTIN, load_questions
from racer.bench.questions.question import Question, digest, draw

__all__ = ["BUILTIN", "Question", "digest", "draw", "load_questions"]
