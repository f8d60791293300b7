"""Training as a service on this machine: jobs over HTTP, chat with what was trained, and a page to watch it.

Reading order: ``settings`` → ``state`` (one SQLite file) → ``records`` (what it holds) → ``worker`` (the process of a
job) → ``scheduler`` (the queue) → ``api`` (a route, its models, its errors) → ``*_routes`` → ``app``.
"""
