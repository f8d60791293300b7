"""Chat with what was trained: a catalogue of models, a few bases in memory, running batches of answers.

Reading order: ``catalogue`` → ``engine`` (models in memory) → ``prompts`` → ``token_text`` → ``answering`` (an answer
while it grows) → ``service`` (the queue).
"""
