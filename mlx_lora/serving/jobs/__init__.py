"""Jobs: the queue, the process of each job, and what it leaves.

Reading order: ``files`` (a job's files) → ``worker`` (the process of a job) → ``validation`` → ``worker_process`` (its
start, from outside) → ``events`` → ``endings`` → ``scheduler`` (the queue).
"""
