"""Training as a service on this machine: jobs over HTTP, chat with what was trained, and a page to watch it.

Reading order: ``settings`` → ``records`` → ``state`` (one SQLite file that holds them) → ``job_files`` (a job's files)
→ ``worker`` (the process of a job) → ``job_validation`` → ``worker_process`` (its start, from outside) →
``job_events`` → ``job_endings`` → ``scheduler`` (the queue) → ``api`` (a route, its models, its errors) →
``*_routes`` → ``app``.
"""
