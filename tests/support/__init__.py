"""What several test files share: tiny models, toy texts, simulated machines, and ways to run the command."""
