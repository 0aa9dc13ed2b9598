"""The HTTP server: OpenAI's interface to a model, for programs, and a page in the browser for people."""
