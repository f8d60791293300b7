"""Training as a service on this machine: jobs over HTTP, chat with what was trained, and a page to watch it.

Reading order: ``settings`` → ``records`` → ``state`` (one SQLite file that holds them) → ``jobs`` (the queue and its
workers) → ``chat`` (models in memory and their answers) → ``page`` (what the live page shows) → ``api`` (a route, its
models, its errors) → ``routes`` → ``app`` → ``server``.
"""
