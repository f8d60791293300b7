"""Loggers: a run's events on a progress bar, in TensorBoard, and in the trackers that ``report_to`` names.

Reading order: ``progress_bar`` → ``measurements`` (the numbers of an event) → ``tensorboard`` → ``tracker`` (what a
tracker does, and the thread that keeps it from stopping the training) → ``trackio``, ``wandb``, ``mlflow``.
"""
