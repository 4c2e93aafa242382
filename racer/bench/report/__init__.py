"""The report of a run: Jinja's templates for its text and its page, matplotlib for its plots."""

from racer.bench.report.document import markdown, write_report

__all__ = ["markdown", "write_report"]
